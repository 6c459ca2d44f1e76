"""Host wrappers of csrc/conv_relu_maxpool's kernels for NVIDIA GPUs.

`forward` and `backward` leave the products to the library and take bias, ReLU and pool, or their way back, in
one pass; the `direct` kernels are the whole op.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import cuda
from fastmodel.ops import conv, conv_cuda
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream


def forward(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward; the convolution is rounded before the bias is added."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    x = x.contiguous(memory_format=torch.channels_last)
    dense = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    dense = dense.contiguous(memory_format=torch.channels_last)
    out, argmax = _new_outputs(sizes, x)
    bias = None if bias is None else bias.contiguous()
    cuda().conv_relu_maxpool_pool_cuda(
        sizes,
        address(dense),
        address(bias),
        address(out),
        address(argmax),
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    return out, argmax


def forward_direct_condition(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """Why the direct kernel does not take this call, or None."""
    if tuple(pool_kernel) != (2, 2) or min(pool_stride) < 2 or max(pool_padding) > 0:
        return "its windows are not 2 x 2 apart from one another"
    refusal = conv.native_condition(x, weight, padding, groups)
    if refusal is not None:
        return refusal
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    fits = cuda().conv_relu_maxpool_direct_fits_cuda(sizes, False)
    return None if fits else conv_cuda.DOES_NOT_FIT


def forward_direct(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    out, argmax = _new_outputs(sizes, x)
    bias = None if bias is None else bias.contiguous()
    cuda().conv_relu_maxpool_direct_forward_cuda(
        sizes,
        address(x),
        x.stride(),
        address(weight),
        weight.stride(),
        address(bias),
        address(out),
        address(argmax),
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    return out, argmax


def backward(
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
    n, channels = grad.shape[:2]
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    dense = None
    if wanted[0] or wanted[1]:
        last = torch.channels_last
        dense = torch.empty(n, channels, p, q, dtype=x.dtype, device=x.device, memory_format=last)
    grad_bias = grad.new_empty(channels if wanted[2] else 0)
    shares = conv_cuda.splits(n * p * q, -(-channels // 128))
    partial = conv_cuda.scratch(grad, shares, channels)
    cuda().conv_relu_maxpool_scatter_cuda(
        sizes,
        address(grad),
        address(argmax),
        address(dense),
        address(grad_bias) if wanted[2] else 0,
        address(partial),
        shares,
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    if dense is None:
        return x.new_empty(0), x.new_empty(0), grad_bias
    products = [wanted[0], wanted[1], False]
    grad_x, grad_weight, _ = conv.dense_backward(
        dense, x, weight, stride, padding, dilation, groups, products
    )
    return grad_x, grad_weight, grad_bias


def backward_direct_condition(
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
    """Why the direct kernels do not take this call, or None."""
    refusal = conv.native_condition(x, weight, padding, groups)
    if refusal is not None or not wanted[0]:
        return refusal
    if tuple(stride) != (1, 1):
        return "its gradient of x is made at stride 1 alone"
    sizes = _sizes(x, weight, stride, padding, dilation, pool_kernel, pool_stride, pool_padding)
    fits = cuda().conv_relu_maxpool_direct_fits_cuda(sizes, True)
    return None if fits else conv_cuda.DOES_NOT_FIT


def backward_direct(
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
    shares = conv_cuda.filter_splits(grad.shape[0] * grad.shape[2] * grad.shape[3], weight)
    kernel = cuda().conv_relu_maxpool_direct_backward_cuda
    return conv_cuda.gradients(kernel, sizes, shares, grad, x, weight, argmax, wanted)


def _new_outputs(sizes: tuple[int, ...], x: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialised (out, argmax) of the pooled size."""
    shape, last = (sizes[0], sizes[4], sizes[-2], sizes[-1]), torch.channels_last
    return (
        torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last),
        torch.empty(shape, dtype=torch.uint8, device=x.device, memory_format=last),
    )


def _sizes(x, weight, stride, padding, dilation, *pool):
    geometry = (tuple(pair) for pair in (stride, padding, dilation, *pool))
    return conv.native_sizes(x.shape, weight.shape, *geometry)
