"""layer_norm in plain PyTorch: the definition, the oracle and the last fallback.

    out = (x - mean) * rstd * weight + bias, mean and variance over the last `dims` dimensions,
    rstd = 1 / sqrt(variance + eps)

Forward also returns stats (2, rows), mean and rstd, for backward: see fastmodel/ops/norm.py.
"""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import norm

forward = norm.layer_forward


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    return norm.layer_backward(grad, None, x, weight, bias, dims, eps, wanted)
