"""linear_tanh in plain PyTorch: the definition, the oracle and the last fallback.

    out = tanh(x @ weight.T + bias)          x (..., I), weight (O, I), bias (O,) or None, out (..., O)

Backward keeps x, weight and out: its derivative is 1 - out^2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out = tanh(x @ weight.T + bias)."""
    return torch.tanh(F.linear(x, weight, bias))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    return linear_layer.gradients(torch.ops.aten.tanh_backward(grad, out), x, weight, wanted)
