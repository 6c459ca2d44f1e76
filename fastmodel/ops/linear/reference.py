"""linear in plain PyTorch: the definition, the oracle and the last fallback.

    out = x @ weight.T + bias          x (..., I), weight (O, I), bias (O,) or None, out (..., O)

Backward keeps x and weight.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out = x @ weight.T + bias."""
    return F.linear(x, weight, bias)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    return linear_layer.gradients(grad, x, weight, wanted)
