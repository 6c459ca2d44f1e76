"""linear_relu_dropout in plain PyTorch: the definition, the oracle and the last fallback.

    out = relu(x @ weight.T + bias) * keep / (1 - p)

with x (..., I), weight (O, I), bias (O,) or None and out (..., O). keep[i] is 1 where random[i] >= p * 2^32,
i counting the elements of out row by row, random as `stochastic_rounding.random_bits` has it.

Backward keeps x, weight and out, and needs no mask: an element of out is positive where it lives under the
ReLU and was kept. (NaN counts as alive, as in PyTorch's ReLU, even where it was dropped.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops.stochastic_rounding import random_bits


def scale_of(p: float) -> float:
    """What kept elements are multiplied by."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)


def threshold_of(p: float) -> int:
    """Of 2^32 random integers, how many drop their element."""
    return round(p * 2**32)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor, p: float) -> Tensor:
    """out = relu(x @ weight.T + bias) * keep / (1 - p)."""
    out = torch.relu(F.linear(x, weight, bias))
    if p == 0.0:
        return out
    keep = random_bits(out, 0, 0, int(seed)) >= threshold_of(p)
    return out * (keep * scale_of(p)).to(out.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    masked = torch.ops.aten.threshold_backward(grad, out, 0) * scale_of(p)
    rows = math.prod(x.shape[:-1])
    flat = masked.reshape(rows, weight.shape[0])
    unwanted = grad.new_empty
    return (
        masked @ weight if wanted[0] else unwanted(0),
        flat.T @ x.reshape(rows, weight.shape[1]) if wanted[1] else unwanted(0),
        flat.sum(0) if wanted[2] else unwanted(0),
    )
