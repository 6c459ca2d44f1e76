"""add_rms_norm in plain PyTorch: the definition, the oracle and the last fallback.

    sum = x + residual, in the dtype to which PyTorch promotes both
    out = rms_norm(sum), in that of sum

Forward returns out, sum and the stats of rms_norm; backward reads sum. x and residual have one gradient,
that of sum: rms_norm's and what comes in for sum itself.
"""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import norm


def forward(
    x: Tensor, residual: Tensor, weight: Tensor | None, dims: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """out, sum and stats."""
    total = (x + residual).contiguous()
    out, stats = norm.rms_forward(total, weight, dims, eps)
    return out, total, stats


def backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    total: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of sum and weight; an empty tensor for each that `wanted` leaves out."""
    return norm.rms_backward(grad, grad_sum, total, weight, dims, eps, wanted)
