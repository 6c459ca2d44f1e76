"""linear_silu in plain PyTorch: the definition, the oracle and the last fallback.

    out = silu(x @ weight.T + bias)          x (..., I), weight (O, I), bias (O,) or None, out (..., O)
    silu(z) = z * sigmoid(z)

Backward keeps x, weight and pre = x @ weight.T + bias: the derivative is
s * (1 + pre * (1 - s)), s = sigmoid(pre).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool
) -> tuple[Tensor, Tensor]:
    """out = silu(x @ weight.T + bias); and pre, which is empty where it is not kept."""
    pre = F.linear(x, weight, bias)
    return F.silu(pre), pre if keeps_pre else pre.new_empty(0)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pre: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    # PyTorch's own silu_backward has no derivative; float32 inside, as it has for low precision.
    wide = pre.to(torch.promote_types(pre.dtype, torch.float32))
    s = torch.sigmoid(wide)
    slope = s * (1 + wide * (1 - s))
    return linear_layer.gradients((grad * slope).to(grad.dtype), x, weight, wanted)
