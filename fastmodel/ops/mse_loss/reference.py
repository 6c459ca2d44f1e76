"""mse_loss in plain PyTorch: the definition, the oracle and the last fallback.

    term = (x - target)^2, loss = term, its sum or its mean

with x and target of one shape and dtype. Backward keeps both.
"""

from __future__ import annotations

from torch import Tensor

NONE, MEAN, SUM = 0, 1, 2


def forward(x: Tensor, target: Tensor, reduction: int) -> Tensor:
    """The loss."""
    term = (x - target).square()
    if reduction == NONE:
        return term
    return term.sum() if reduction == SUM else term.mean()


def backward(
    grad: Tensor, x: Tensor, target: Tensor, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of x and target; an empty tensor for each that `wanted` leaves out."""
    factor = 2 * grad / x.numel() if reduction == MEAN else 2 * grad
    found = (x - target) * factor
    return found if wanted[0] else x.new_empty(0), -found if wanted[1] else x.new_empty(0)
