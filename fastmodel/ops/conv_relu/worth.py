"""Where the fused kernels of conv_relu win, for automatic choice.

The bounds are set from measurements at float32 against the library row.
"""

from __future__ import annotations

MOST_PATCH = 1024


def forward(x, weight, bias, stride, padding, dilation, groups):
    """None where the fused forward is the faster one, else the reason."""
    if weight[0].numel() > MOST_PATCH:
        return "filters are too large for the cache"
    return None


def backward(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """None where the fused backward is the faster one, else the reason."""
    return "half of the pixels carry a gradient: a dense product is faster"
