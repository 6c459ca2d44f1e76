"""Where the fused kernels of conv_relu win, for automatic choice.

Bounds: float32 against the library row, 2 cores with AVX-512 (AMD EPYC 9005),
benchmarks/results/conv-relu-epyc-2core.json.
Forward: oneDNN's products are at the ceiling, but ReLU is a pass of its own over the output (oneDNN's own
epilogue loses NaN): the fused one is 1.3x at a first layer of 3 to 32 channels, 0.8x at 3 to 64 and with
1 x 1 filters. Depthwise 0.9x to 1.4x, with stride 2 0.8x.
Backward: grad_x is added up in memory, R * S times an element for every 64 output channels; oneDNN keeps
it in registers but needs the masked gradient written: fused 2.2x at first layers, level at 64 to 64 channels
of 3 x 3 dilated filters; with 1 x 1 filters 1.04x at 256 to 512 channels of 14 x 14, 0.95x at 512 to 512.
Winograd's backward: 0.86x at 16 images of 512 channels of 7 x 7, where the row behind it makes 1.3x; at
4 x 4, 5 x 5 and dilated filters 1.04x to 1.8x, forward 1.1x to 1.6x
(benchmarks/results/winograd-parts-epyc-2core.json).
Depthwise backward 1.05x to 2.4x alone.
"""

from __future__ import annotations

import math

from fastmodel.ops import conv

MOST_FORWARD_PATCH, MOST_FORWARD_CHANNELS, LEAST_FORWARD_OUTPUT = 32, 32, 2**20
LEAST_WINOGRAD_PIXELS = 1024
MOST_BACKWARD_WEIGHT, MOST_BACKWARD_POINTWISE_WEIGHT = 24 * 1024, 160 * 1024


def forward(x, weight, bias, stride, padding, dilation, groups):
    """None where the fused forward is the faster one, else the reason."""
    if weight.shape[1:].numel() > MOST_FORWARD_PATCH or weight.shape[0] > MOST_FORWARD_CHANNELS:
        return "the product outweighs ReLU's pass, and oneDNN's is faster"
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    if x.shape[0] * weight.shape[0] * p * q < LEAST_FORWARD_OUTPUT:
        return "ReLU's pass over the output stays in cache"
    return None


def forward_depthwise(x, weight, bias, stride, *_):
    """None where the depthwise forward is the faster one, else the reason."""
    if max(stride) > 1:
        return "oneDNN's is faster with steps"
    return None


def backward(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """None where the fused backward is the faster one, else the reason."""
    if not wanted[0]:
        return None
    is_pointwise = math.prod(weight.shape[2:]) == 1
    most = MOST_BACKWARD_POINTWISE_WEIGHT if is_pointwise else MOST_BACKWARD_WEIGHT
    if weight.numel() > most:
        return "adding grad_x up in memory costs more than the masked gradient's way there"
    return None


def forward_winograd(x, weight, *_):
    """None where the Winograd forward is the faster one, else the reason."""
    return conv.winograd_worth(x, weight)


def backward_winograd(grad, x, weight, *_):
    """None where the Winograd backward is the faster one, else the reason."""
    if grad.shape[0] * grad.shape[2] * grad.shape[3] < LEAST_WINOGRAD_PIXELS:
        return "few pixels: the filters' transforms cost more than they save"
    return conv.winograd_worth(x, weight)
