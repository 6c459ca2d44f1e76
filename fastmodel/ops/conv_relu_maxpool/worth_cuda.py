"""Where the direct kernels of conv_relu_maxpool for NVIDIA GPUs are tried first.

No GPU has measured these bounds yet: they come from bytes and FLOPs. A first layer moves more bytes than its
products cost, and fused it never writes the convolution's output; a layer as small as MNIST's second is a
matter of launches, of which the direct kernels take one forward and three backward. Beyond, tensor cores pass
float32's rate.
"""

from __future__ import annotations

import math

from fastmodel.ops import conv, conv_cuda

MOST_FLOPS = 2**29
"""Of a layer that a GPU computes in float32 in a few launches' time."""

_LARGE = "the layer is large enough for the library's product to be faster"


def forward_direct(x, weight, bias, stride, padding, dilation, *_):
    """None where the direct forward is the fastest, else the reason."""
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    return _refusal(x, weight, p, q)


def backward_direct(grad, x, weight, argmax, stride, padding, dilation, *_):
    """None where the direct backward is the fastest, else the reason."""
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    return _refusal(x, weight, p, q)


def _refusal(x, weight, p: int, q: int) -> str | None:
    is_small = conv.flops(x.shape, weight.shape, p, q) <= MOST_FLOPS
    is_narrow = math.prod(weight.shape[2:]) <= 9
    return None if conv_cuda.is_first_layer(weight) or (is_small and is_narrow) else _LARGE
