"""conv_relu in plain PyTorch: the definition, the oracle and the last fallback.

    out = relu(conv2d(x, weight, bias))       x (N, C, H, W), weight (K, C/groups, R, S), out (N, K, P, Q)

out is channels_last if x or weight is, else contiguous. Backward keeps x, weight and out; the ReLU's mask is
out itself (NaN counts as alive, as in PyTorch).
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
) -> Tensor:
    """out = relu(conv2d(x, weight, bias))."""
    out = torch.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    masked = torch.ops.aten.threshold_backward(grad, out, 0)
    return conv.dense_backward(masked, x, weight, stride, padding, dilation, groups, wanted)
