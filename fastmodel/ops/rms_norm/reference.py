"""rms_norm in plain PyTorch: the definition, the oracle and the last fallback.

    out = x * rstd * weight, rstd = 1 / sqrt(mean of x^2 + eps) over the last `dims` dimensions

Forward also returns stats (1, rows), rstd, for backward: see fastmodel/ops/norm.py.
"""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import norm

forward = norm.rms_forward


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight; an empty tensor for each that `wanted` leaves out."""
    return norm.rms_backward(grad, None, x, weight, dims, eps, wanted)
