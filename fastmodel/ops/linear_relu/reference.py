"""linear_relu in plain PyTorch: the definition, the oracle and the last fallback.

    out = relu(x @ weight.T + bias)          x (..., I), weight (O, I), bias (O,) or None, out (..., O)

Backward keeps x, weight and out; the ReLU's mask is out itself (NaN counts as alive, as in PyTorch).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out = relu(x @ weight.T + bias)."""
    return torch.relu(F.linear(x, weight, bias))


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    masked = torch.ops.aten.threshold_backward(grad, out, 0)
    rows = math.prod(x.shape[:-1])
    flat = masked.reshape(rows, weight.shape[0])
    unwanted = grad.new_empty
    return (
        masked @ weight if wanted[0] else unwanted(0),
        flat.T @ x.reshape(rows, weight.shape[1]) if wanted[1] else unwanted(0),
        flat.sum(0) if wanted[2] else unwanted(0),
    )
