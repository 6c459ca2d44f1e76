"""Host wrappers of csrc/conv_relu_maxpool.

`cpu` rows are the fused kernels. `library` rows leave the convolution and its gradients to PyTorch and take
ReLU, pool and bias gradient in one pass of their own, over channels_last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops import conv
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_condition(x, weight, bias, stride, padding, dilation, groups, *_):
    """Why the kernel does not take this call, or None."""
    return conv.native_condition(x, weight, padding, groups)


def backward_condition(grad, x, weight, argmax, stride, padding, dilation, groups, *_):
    """Why the kernel does not take this call, or None."""
    return conv.native_condition(x, weight, padding, groups)


def winograd_condition(*args):
    """Why the Winograd kernels do not take this call, forward or backward, or None."""
    is_forward = len(args) == 10
    weight, geometry = (args[1], args[3:]) if is_forward else (args[2], args[4:-1])
    if any(tuple(pair) != (2, 2) for pair in geometry[4:6]) or tuple(geometry[6]) != (0, 0):
        return "its windows are not 2 x 2 side by side"
    if tuple(geometry[2]) != (1, 1):
        return "a tile of a dilated convolution is no window"
    return conv.winograd_condition(weight, *geometry[:4])


def forward_cpu(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    return _forward(native().conv_relu_maxpool_forward_cpu, sizes, x, weight, bias)[0]


def forward_winograd(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    rows = x.contiguous(memory_format=torch.channels_last)
    kernel = native().conv_relu_maxpool_winograd_forward_cpu
    found, is_finite = _forward(kernel, sizes, rows, weight, bias)
    if not is_finite:
        return _forward(native().conv_relu_maxpool_forward_cpu, sizes, x, weight, bias)[0]
    return found


def _forward(kernel, sizes: tuple[int, ...], x, weight, bias):
    """(out, argmax) of one of our kernels, and what the kernel itself returned."""
    bias = None if bias is None else bias.contiguous()
    out, argmax = _new_outputs(sizes, x.dtype)
    returned = kernel(
        sizes,
        address(x),
        x.stride(),
        address(weight),
        weight.stride(),
        address(bias),
        address(out),
        address(argmax),
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return (out, argmax), returned


def backward_cpu(
    grad,
    x,
    weight,
    argmax,
    stride,
    padding,
    dilation,
    groups,
    pool_kernel,
    pool_stride,
    pool_padding,
    wanted,
):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    kernel = native().conv_relu_maxpool_backward_cpu
    return _backward(kernel, sizes, grad, x, weight, argmax, wanted)[0]


def backward_winograd(
    grad,
    x,
    weight,
    argmax,
    stride,
    padding,
    dilation,
    groups,
    pool_kernel,
    pool_stride,
    pool_padding,
    wanted,
):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    rows = x.contiguous(memory_format=torch.channels_last)
    kernel = native().conv_relu_maxpool_winograd_backward_cpu
    found, is_finite = _backward(kernel, sizes, grad, rows, weight, argmax, wanted)
    if not is_finite:
        kernel = native().conv_relu_maxpool_backward_cpu
        return _backward(kernel, sizes, grad, x, weight, argmax, wanted)[0]
    return (conv.laid_out_like(found[0], x) if wanted[0] else found[0], *found[1:])


def _backward(kernel, sizes: tuple[int, ...], grad, x, weight, argmax, wanted):
    """The gradients by one of our kernels, and what the kernel itself returned."""
    rest = DTYPE_CODES[x.dtype], threads()
    return conv.gradients(kernel, sizes, grad, x, weight, argmax, wanted, *rest)


def overlap_condition(grad, x, weight, argmax, stride, padding, dilation, groups, kernel, step, *_):
    """Why scatter_library does not take this call, or None."""
    is_overlapping = kernel[0] > step[0] or kernel[1] > step[1]
    if grad.dtype == torch.bfloat16 and is_overlapping:
        return "windows overlap, whose gradients would add up in bfloat16"
    return None


def forward_library(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward."""
    x = x.contiguous(memory_format=torch.channels_last)
    dense = F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    dense = dense.contiguous(memory_format=torch.channels_last)
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    out, argmax = _new_outputs(sizes, x.dtype)
    native().conv_relu_maxpool_pool_cpu(
        sizes, address(dense), address(out), address(argmax), DTYPE_CODES[x.dtype], threads()
    )
    return out, argmax


def backward_library(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    argmax: Tensor,
    stride,
    padding,
    dilation,
    groups: int,
    pool_kernel,
    pool_stride,
    pool_padding,
    wanted,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    argmax = argmax.contiguous(memory_format=torch.channels_last)
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    shape = (*grad.shape[:2], *conv.conv_output_size(x, weight, stride, padding, dilation))
    dense = torch.empty(shape, dtype=grad.dtype, memory_format=torch.channels_last)
    grad_bias = grad.new_empty(weight.shape[0] if wanted[2] else 0)
    native().conv_relu_maxpool_scatter_cpu(
        sizes,
        address(grad),
        address(argmax),
        address(dense),
        address(grad_bias) if wanted[2] else 0,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    products = [wanted[0], wanted[1], False]
    grad_x, grad_weight, _ = conv.dense_backward(
        dense, x, weight, stride, padding, dilation, groups, products
    )
    return grad_x, grad_weight, grad_bias


def _new_outputs(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Uninitialised (out, argmax) of the pooled size."""
    shape = (sizes[0], sizes[4], sizes[-2], sizes[-1])
    return (
        torch.empty(shape, dtype=dtype, memory_format=torch.channels_last),
        torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last),
    )


def _sizes(x, weight, stride, padding, dilation, *pool):
    geometry = (tuple(pair) for pair in (stride, padding, dilation, *pool))
    return conv.native_sizes(x.shape, weight.shape, *geometry)
