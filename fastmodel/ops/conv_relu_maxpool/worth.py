"""Where the fused kernels of conv_relu_maxpool win, for automatic choice.

Forward keeps a block of filters (R * S * C x 64 channels) streaming from L2; backward keeps all filters and
their gradients there, and skips most of the work where windows do not overlap. The bounds are set from
measurements at float32 against the library row.
"""

from __future__ import annotations

MOST_PATCH = 1024
MOST_FILTER_ELEMENTS = 160 * 1024


def forward(x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride):
    """None where the fused forward is the faster one, else the reason."""
    if pool_kernel[0] > pool_stride[0] or pool_kernel[1] > pool_stride[1]:
        return "windows overlap: their pixels would be computed more than once"
    if weight[0].numel() > MOST_PATCH:
        return "filters are too large for the cache"
    return None


def backward(grad, x, weight, argmax, stride, padding, dilation, groups, pool_kernel, step, wanted):
    """None where the fused backward is the faster one, else the reason."""
    if pool_kernel[0] * pool_kernel[1] < 4 or step[0] * step[1] < 4:
        return "too many pixels carry a gradient"
    if weight.numel() > MOST_FILTER_ELEMENTS:
        return "filters are too large for the cache"
    return None
