"""conv_relu_maxpool in plain PyTorch: the definition, the oracle and the last fallback.

    out = max_pool2d(relu(conv2d(x, weight, bias)))       x (N, C, H, W), weight (K, C/groups, R, S)

Forward saves, beside x and weight, `argmax` (uint8, shape of out): the position of the maximum within its
window, row by row and padding included (the first of equal ones; the last NaN), or the window's size if
the maximum is not above 0, where the ReLU passes no gradient. The pool's padding is never a maximum. So
backward needs neither out nor the convolution's output. Both outputs are channels_last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import conv


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pool_kernel: list[int],
    pool_stride: list[int],
    pool_padding: list[int],
) -> tuple[Tensor, Tensor]:
    """(out, argmax)."""
    dense = torch.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    out, index = F.max_pool2d(dense, pool_kernel, pool_stride, pool_padding, return_indices=True)
    h, w = _window_origin(out, pool_stride, pool_padding)
    width = dense.shape[3]
    position = (index // width - h) * pool_kernel[1] + (index % width - w)
    dead = pool_kernel[0] * pool_kernel[1]
    argmax = torch.where(out <= 0, dead, position).to(torch.uint8)
    return (
        out.contiguous(memory_format=torch.channels_last),
        argmax.contiguous(memory_format=torch.channels_last),
    )


def scatter(
    grad: Tensor, argmax: Tensor, size: tuple[int, int], pool_kernel, pool_stride, pool_padding
) -> Tensor:
    """The gradient of the convolution's output (N, K, *size): grad put where argmax says."""
    h, w = _window_origin(grad, pool_stride, pool_padding)
    position = argmax.long()
    is_live = position < pool_kernel[0] * pool_kernel[1]
    index = (h + position // pool_kernel[1]) * size[1] + w + position % pool_kernel[1]
    index = torch.where(is_live, index, 0)
    dense = grad.new_zeros(*grad.shape[:2], size[0] * size[1])
    masked = torch.where(is_live, grad, 0)
    return dense.scatter_add(2, index.flatten(2), masked.flatten(2)).unflatten(2, size)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    argmax: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    pool_kernel: list[int],
    pool_stride: list[int],
    pool_padding: list[int],
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    size = conv.conv_output_size(x, weight, stride, padding, dilation)
    dense = scatter(grad, argmax, size, pool_kernel, pool_stride, pool_padding)
    return conv.dense_backward(dense, x, weight, stride, padding, dilation, groups, wanted)


def _window_origin(out: Tensor, pool_stride, pool_padding) -> tuple[Tensor, Tensor]:
    """Row and column of each window's first pixel, to broadcast against (N, K, PP, PQ)."""
    h = torch.arange(out.shape[2], device=out.device) * pool_stride[0] - pool_padding[0]
    w = torch.arange(out.shape[3], device=out.device) * pool_stride[1] - pool_padding[1]
    return h[:, None], w[None, :]
