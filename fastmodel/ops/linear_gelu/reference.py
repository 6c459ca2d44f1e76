"""linear_gelu in plain PyTorch: the definition, the oracle and the last fallback.

    out = gelu(x @ weight.T + bias)          x (..., I), weight (O, I), bias (O,) or None, out (..., O)
    gelu(z) = z * Phi(z), Phi(z) = (1 + erf(z / sqrt 2)) / 2

Backward keeps x, weight and pre = x @ weight.T + bias: its derivative is Phi(pre) + pre * phi(pre).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool
) -> tuple[Tensor, Tensor]:
    """out = gelu(x @ weight.T + bias); and pre, which is empty where it is not kept."""
    pre = F.linear(x, weight, bias)
    return F.gelu(pre), pre if keeps_pre else pre.new_empty(0)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, pre: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    return linear_layer.gradients(torch.ops.aten.gelu_backward(grad, pre), x, weight, wanted)
