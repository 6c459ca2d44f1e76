"""Where the fused kernels of conv_relu_maxpool win, for automatic choice.

Forward streams a block of filters (R * S * C x 64 channels) from L2; backward skips most of the work where
windows do not overlap. Bounds: float32 against the library row, 2 cores with AVX-512 (AMD EPYC 9005),
benchmarks/results/epyc-2core/conv_relu_maxpool.json: forward 1.07x at 128 channels of 16 x 16, 0.94x at
256 of 8 x 8; backward 1.6x and 1.3x. Winograd's at 5 x 5 filters against these: forward 1.5x to 1.8x,
backward 0.65x to 0.97x (benchmarks/results/winograd-parts-epyc-2core.json).
"""

from __future__ import annotations

import math

from fastmodel.ops import conv

MOST_FORWARD_PATCH = 1536
MOST_BACKWARD_FILTERS = 600 * 1024

# Overlapping or padded windows, on the same machine: training 1.4x PyTorch's best layout at 64-192 channels
# 5 x 5 over 27 x 27 (patch 1600, forward 1.0x); forward 0.9x at 384-256 channels 3 x 3 over 13 x 13, backward
# 1.7x (885 Ki filters): one pixel in six carries a gradient.
MOST_BAND_PATCH = 2048
MOST_BAND_BACKWARD_FILTERS = 1024 * 1024


def forward(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """None where the fused forward is the faster one, else the reason."""
    is_tiled = pool_kernel[0] <= pool_stride[0] and pool_kernel[1] <= pool_stride[1]
    if weight.shape[1:].numel() > (MOST_FORWARD_PATCH if is_tiled else MOST_BAND_PATCH):
        return "filters are too large for the cache"
    return None


def backward(grad, x, weight, argmax, stride, padding, dilation, groups, pool_kernel, step, *_):
    """None where the fused backward is the faster one, else the reason."""
    if pool_kernel[0] * pool_kernel[1] < 4 or step[0] * step[1] < 4:
        return "too many pixels carry a gradient"
    is_tiled = pool_kernel[0] <= step[0] and pool_kernel[1] <= step[1]
    if weight.numel() > (MOST_BACKWARD_FILTERS if is_tiled else MOST_BAND_BACKWARD_FILTERS):
        return "filters are larger than any that was measured to win"
    return None


def forward_winograd(x, weight, *_):
    """None where the Winograd forward is the faster one, else the reason."""
    return conv.winograd_worth(x, weight)


def backward_winograd(grad, x, weight, *_):
    """None where the Winograd backward is the faster one, else the reason."""
    is_large = math.prod(weight.shape[2:]) <= 9 or weight.numel() > MOST_BACKWARD_FILTERS
    if min(weight.shape[:2]) < 64 or not is_large:
        return "sums over the live pixels alone are faster"
    return conv.winograd_worth(x, weight)
