"""linear_sigmoid in plain PyTorch: the definition, the oracle and the last fallback.

    out = sigmoid(x @ weight.T + bias)          x (..., I), weight (O, I), bias (O,) or None, out (..., O)

Backward keeps x, weight and out: its derivative is out * (1 - out).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out = sigmoid(x @ weight.T + bias)."""
    return torch.sigmoid(F.linear(x, weight, bias))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    return linear_layer.gradients(torch.ops.aten.sigmoid_backward(grad, out), x, weight, wanted)
