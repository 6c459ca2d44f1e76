"""Where the fused kernels of conv_relu win, for automatic choice.

Bounds: float32 against the library row, 2 cores with AVX-512 (AMD EPYC 9005),
benchmarks/results/ops-epyc-2core.json: forward 1.01x at 64 channels of 56 x 56, 0.86x at 32 of 13 x 13,
0.92x at 256 of 14 x 14; backward 1.2x at 32 to 64 channels of 13 x 13, 0.94x at 64 to 64.
"""

from __future__ import annotations

from fastmodel.ops import conv

LEAST_FORWARD_PATCH, MOST_FORWARD_PATCH = 384, 1024
MOST_BACKWARD_FILTERS = 24 * 1024


def forward(x, weight, bias, stride, padding, dilation, groups):
    """None where the fused forward is the faster one, else the reason."""
    if weight.shape[1:].numel() > MOST_FORWARD_PATCH:
        return "filters are too large for the cache"
    if weight.shape[1:].numel() < LEAST_FORWARD_PATCH:
        return "filters are too small to pay for packing them"
    return None


def backward(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """None where the fused backward is the faster one, else the reason."""
    if weight.numel() > MOST_BACKWARD_FILTERS:
        return "half of the pixels carry a gradient: a dense product is faster"
    return None


def forward_winograd(x, weight, *_):
    """None where the Winograd forward is the faster one, else the reason."""
    return conv.winograd_worth(x, weight)


def backward_winograd(grad, x, weight, *_):
    """None where the Winograd backward is the faster one, else the reason."""
    return conv.winograd_worth(x, weight)
