"""Host wrappers of csrc/conv_relu.

`cpu`, `winograd` and `depthwise` kernels are fused. `library` ones leave the convolution and grad_x to
PyTorch; their backward masks the gradient and sums those of weight and bias in one pass over channels_last.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops import conv
from fastmodel.ops.conv_relu import reference
from fastmodel.ops.native import DTYPE_CODES, address, threads

# Ours is 1.3x oneDNN's grad_weight at 3 x 3 filters of stride 2 and at small images, 0.9x at 5 x 5 filters:
# benchmarks/results/conv-relu-epyc-2core.json.
_MOST_TAPS = 16


def forward_condition(x, weight, bias, stride, padding, dilation, groups):
    """Why the kernel does not take this call, or None."""
    return conv.native_condition(x, weight, padding, groups)


def backward_condition(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """Why the kernel does not take this call, or None."""
    return conv.native_condition(x, weight, padding, groups)


def depthwise_condition(*args):
    """Why the depthwise kernels do not take this call, forward or backward, or None."""
    is_forward = len(args) == 7
    x, weight = args[:2] if is_forward else args[1:3]
    groups = args[6] if is_forward else args[7]
    return None if conv.is_depthwise(x, weight, groups) else "groups of more than one channel"


def winograd_condition(*args):
    """Why the Winograd kernels do not take this call, forward or backward, or None."""
    is_forward = len(args) == 7
    weight, geometry = (args[1], args[3:]) if is_forward else (args[2], args[4:-1])
    return conv.winograd_condition(weight, *geometry)


def forward_cpu(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    out, _ = _forward(native().conv_relu_forward_cpu, sizes, x, weight, bias)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def forward_depthwise(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    rows = x.contiguous(memory_format=torch.channels_last)
    out, _ = _forward(native().conv_relu_depthwise_forward_cpu, sizes, rows, weight, bias)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def forward_winograd(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    rows = x.contiguous(memory_format=torch.channels_last)
    out, is_finite = _forward(native().conv_relu_winograd_forward_cpu, sizes, rows, weight, bias)
    if not is_finite:
        return forward_cpu(x, weight, bias, stride, padding, dilation, groups)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def _forward(kernel, sizes: tuple[int, ...], x, weight, bias):
    """The output of one of our kernels, channels_last, and what the kernel itself returned."""
    bias = None if bias is None else bias.contiguous()
    shape = (sizes[0], sizes[4], sizes[-2], sizes[-1])
    out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
    returned = kernel(
        sizes,
        address(x),
        x.stride(),
        address(weight),
        weight.stride(),
        address(bias),
        address(out),
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return out, returned


def backward_cpu(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    return _backward(native().conv_relu_backward_cpu, sizes, grad, x, weight, out, wanted)[0]


def backward_depthwise(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    rows = x.contiguous(memory_format=torch.channels_last)
    kernel = native().conv_relu_depthwise_backward_cpu
    found, _ = _backward(kernel, sizes, grad, rows, weight, out, wanted)
    return (conv.laid_out_like(found[0], x) if wanted[0] else found[0], *found[1:])


def backward_winograd(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    rows = x.contiguous(memory_format=torch.channels_last)
    kernel = native().conv_relu_winograd_backward_cpu
    found, is_finite = _backward(kernel, sizes, grad, rows, weight, out, wanted)
    if not is_finite:
        return backward_cpu(grad, x, weight, out, stride, padding, dilation, groups, wanted)
    return (conv.laid_out_like(found[0], x) if wanted[0] else found[0], *found[1:])


def _backward(kernel, sizes: tuple[int, ...], grad, x, weight, out, wanted):
    """The gradients by one of our kernels, and what the kernel itself returned."""
    rest = DTYPE_CODES[x.dtype], threads()
    return conv.gradients(kernel, sizes, grad, x, weight, out, wanted, *rest)


def forward_library(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    out = F.conv2d(x, weight, bias, stride, padding, dilation, groups).relu_()
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def backward_library(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    stride,
    padding,
    dilation,
    groups: int,
    wanted,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    if not out.is_contiguous(memory_format=torch.channels_last):
        # One pass over (pixels, channels) would cost two changes of layout.
        return reference.backward(grad, x, weight, out, stride, padding, dilation, groups, wanted)
    grad = grad.contiguous(memory_format=torch.channels_last)
    if groups != 1 or not wanted[1] or math.prod(weight.shape[2:]) > _MOST_TAPS:
        masked, grad_bias = _masked(grad, out, wanted[2])
        products = [wanted[0], wanted[1], False]
        grad_x, grad_weight, _ = conv.dense_backward(
            masked, x, weight, stride, padding, dilation, groups, products
        )
        return grad_x, grad_weight, grad_bias
    grad_x, grad_weight, grad_bias = conv.new_gradients(x, weight, [False, *wanted[1:]])
    masked = torch.empty_like(grad if wanted[0] else grad_x)
    native().conv_relu_weight_gradient_cpu(
        _sizes(x, weight, stride, padding, dilation),
        address(grad),
        address(out),
        address(x),
        x.stride(),
        address(masked) if wanted[0] else 0,
        address(grad_weight),
        grad_weight.stride(),
        address(grad_bias) if wanted[2] else 0,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    if wanted[0]:
        grad_x, _, _ = conv.dense_backward(
            masked, x, weight, stride, padding, dilation, groups, [True, False, False]
        )
    return grad_x, grad_weight, grad_bias


def _masked(grad: Tensor, out: Tensor, wants_bias: bool) -> tuple[Tensor, Tensor]:
    """grad where out is alive, and its sum over pixels; both are channels_last."""
    masked = torch.empty_like(grad)
    channels = grad.shape[1]
    grad_bias = grad.new_empty(channels if wants_bias else 0)
    native().conv_relu_mask_cpu(
        address(grad),
        address(out),
        address(masked),
        address(grad_bias) if wants_bias else 0,
        grad.numel() // max(channels, 1),
        channels,
        DTYPE_CODES[grad.dtype],
        threads(),
    )
    return masked, grad_bias


def _sizes(x, weight, stride, padding, dilation):
    return conv.native_sizes(x.shape, weight.shape, tuple(stride), tuple(padding), tuple(dilation))
