"""Host wrappers of csrc/conv_relu's kernels for NVIDIA GPUs.

`forward` and `backward` leave the products to the library and do the rest in one pass; `direct`, `gemm` and
`depthwise` kernels are whole convolutions of ours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import cuda
from fastmodel.ops import conv, conv_cuda
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream


def forward(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    dense = F.conv2d(x, weight, None, stride, padding, dilation, groups)
    memory_format = conv.memory_format(x, weight)
    out = dense.contiguous(memory_format=memory_format)
    bias = None if bias is None else bias.contiguous()
    cuda().conv_relu_epilogue_cuda(
        _layout(out, memory_format),
        address(out),
        address(bias),
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    return out


def forward_direct_condition(x, weight, bias, stride, padding, dilation, groups):
    """Why the direct kernel does not take this call, or None."""
    refusal = conv.native_condition(x, weight, padding, groups)
    if refusal is not None:
        return refusal
    sizes = _sizes(x, weight, stride, padding, dilation)
    return None if cuda().conv_relu_direct_fits_cuda(sizes) else conv_cuda.DOES_NOT_FIT


def forward_direct(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    memory_format = conv.memory_format(x, weight)
    kernel = cuda().conv_relu_direct_forward_cuda
    return _forward(kernel, sizes, x, weight, bias, memory_format)


def forward_gemm_condition(x, weight, bias, stride, padding, dilation, groups):
    """Why the kernel on tensor cores does not take this call, or None."""
    if weight.shape[1] * weight.element_size() % 16:
        return "its input channels are not a whole number of 16 bytes"
    if x.dtype == torch.float32 and not torch.backends.cudnn.allow_tf32:
        return "torch.backends.cudnn.allow_tf32 is off"
    return conv.native_condition(x, weight, padding, groups)


def forward_gemm(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward; float32 through tf32, which `torch.backends.cudnn.allow_tf32` allows."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    kernel = cuda().conv_relu_gemm_forward_cuda
    last = torch.channels_last
    out = _forward(kernel, sizes, conv_cuda.rows(x), conv_cuda.rows(weight), bias, last)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def forward_depthwise_condition(x, weight, bias, stride, padding, dilation, groups):
    """Why the depthwise kernels do not take this call, or None."""
    return _depthwise_refusal(x, weight, padding, groups)


def forward_depthwise(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    rows = x.contiguous(memory_format=torch.channels_last)
    kernel = cuda().conv_relu_depthwise_forward_cuda
    out = _forward(kernel, sizes, rows, weight, bias, torch.channels_last)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def _forward(kernel, sizes: tuple[int, ...], x, weight, bias, memory_format) -> Tensor:
    """The output of one of our kernels, in `memory_format`."""
    bias = None if bias is None else bias.contiguous()
    shape = (sizes[0], sizes[4], sizes[-2], sizes[-1])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format)
    kernel(
        sizes,
        address(x),
        x.stride(),
        address(weight),
        weight.stride(),
        address(bias),
        address(out),
        out.stride(),
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    return out


def backward(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    is_last = out.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_last else torch.contiguous_format
    grad = grad.contiguous(memory_format=memory_format)
    out = out.contiguous(memory_format=memory_format)
    wants_products = wanted[0] or wanted[1]
    masked = torch.empty_like(grad) if wants_products else None
    grad_bias = grad.new_empty(weight.shape[0] if wanted[2] else 0)
    layout = _layout(out, memory_format)
    images, channels, pixels, _ = layout
    # A block's lanes hold 128 channels or more of a row; of planes it holds one channel.
    groups_of_sums = -(-channels // 128) if is_last else channels
    shares = conv_cuda.splits(images * pixels, groups_of_sums)
    partial = conv_cuda.scratch(grad, shares, channels)
    cuda().conv_relu_mask_cuda(
        layout,
        address(grad),
        address(out),
        address(masked),
        address(grad_bias) if wanted[2] else 0,
        address(partial),
        shares,
        GPU_DTYPE_CODES[x.dtype],
        stream(x),
    )
    if masked is None:
        return x.new_empty(0), x.new_empty(0), grad_bias
    products = [wanted[0], wanted[1], False]
    grad_x, grad_weight, _ = conv.dense_backward(
        masked, x, weight, stride, padding, dilation, groups, products
    )
    return grad_x, grad_weight, grad_bias


def backward_direct_condition(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """Why the direct kernel does not take this call, or None."""
    if wanted[0]:
        return "it makes no gradient of x"
    return conv.native_condition(x, weight, padding, groups)


def backward_direct(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    shares = conv_cuda.filter_splits(out.shape[0] * out.shape[2] * out.shape[3], weight)
    kernel = cuda().conv_relu_direct_backward_cuda
    return conv_cuda.gradients(kernel, sizes, shares, grad, x, weight, out, wanted)


def backward_depthwise_condition(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """Why the depthwise kernels do not take this call, or None."""
    return _depthwise_refusal(x, weight, padding, groups)


def backward_depthwise(grad, x, weight, out, stride, padding, dilation, groups, wanted):
    """As reference.backward."""
    sizes = _sizes(x, weight, stride, padding, dilation)
    c, _, r, s = weight.shape
    pixels = out.shape[0] * out.shape[2] * out.shape[3]
    shares = conv_cuda.splits(pixels, -(-c // 128) * -(-r * s // 9))
    kernel = cuda().conv_relu_depthwise_backward_cuda
    rows = x.contiguous(memory_format=torch.channels_last)
    found = conv_cuda.gradients(kernel, sizes, shares, grad, rows, weight, out, wanted)
    return (conv.laid_out_like(found[0], x) if wanted[0] else found[0], *found[1:])


def _depthwise_refusal(x: Tensor, weight: Tensor, padding, groups: int) -> str | None:
    if not conv.is_depthwise(x, weight, groups):
        return "groups of more than one channel"
    if weight.shape[2] * weight.shape[3] > _MOST_DEPTHWISE_TAPS:
        return "its filters do not fit into shared memory"
    return conv.native_condition(x, weight, padding, 1)


# 256 channels' filters in float32 lie in shared memory: 121 KiB.
_MOST_DEPTHWISE_TAPS = 121


def _layout(out: Tensor, memory_format: torch.memory_format) -> tuple[int, int, int, int]:
    """A dense tensor of images as csrc/conv_relu/conv_relu_cuda.h reads it."""
    n, k, p, q = out.shape
    return n, k, p * q, int(memory_format == torch.channels_last)


def _sizes(x, weight, stride, padding, dilation):
    return conv.native_sizes(x.shape, weight.shape, tuple(stride), tuple(padding), tuple(dilation))
