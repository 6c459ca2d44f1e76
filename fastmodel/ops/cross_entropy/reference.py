"""cross_entropy in plain PyTorch: the definition, the oracle and the last fallback.

With logits x, class weights w (1 if there are none), label smoothing e and C classes, for each row:

    log_p = x - max - log_sum               log_sum = log(sum_c exp(x_c - max))
    q_c   = w_c ((1 - e) t_c + e / C)       t the target's probabilities, 1 at a class index
    row   = -sum_c q_c log_p_c              0 where a class index is ignore_index

    loss  = row, sum(row), or sum(row) / divisor
    divisor = sum of w at the class indices not ignored; the number of rows where targets are probabilities

x is (C,), (N, C) or (N, C, d1, ...); a row is one position of N, d1, ..., in this order.

Forward also returns what backward needs beside its inputs, `stats` (2 * rows + 1): the rows' max, the rows'
log_sum, and divisor; in float32, in float64 for float64. max and log_sum are kept apart, because their sum
would round away what tells large logits apart. The backward here takes only divisor from it and derives the
rest again from x, so that it is differentiable in x.

The gradients of x and of probabilities lie in memory with the classes last.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import class_loss
from fastmodel.ops.class_loss import MEAN, NONE


def loss_dtype(x: Tensor, target: Tensor, weight: Tensor | None) -> torch.dtype:
    """The dtype of the loss: PyTorch's promotion of x, probabilities and weight."""
    dtype = x.dtype
    for other in (target, weight):
        if other is not None and other.is_floating_point():
            dtype = torch.promote_types(dtype, other.dtype)
    return dtype


def stats_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of `stats` and of all arithmetic for a loss of this dtype."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def class_count(x: Tensor) -> int:
    """C."""
    return x.shape[0] if x.dim() == 1 else x.shape[1]


def classes_last(x: Tensor) -> Tensor:
    """x with the class dimension at the end, a view."""
    return x if x.dim() <= 2 else x.movedim(1, -1)


def classes_back(x: Tensor) -> Tensor:
    """The inverse of classes_last."""
    return x if x.dim() <= 2 else x.movedim(-1, 1)


def forward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Loss and stats.

    Raises:
        TargetIndexError: a class index is out of range (on the CPU; other devices report it themselves).
    """
    dtype = loss_dtype(x, target, weight)
    wide = x.to(stats_dtype(dtype))
    has_index = not target.is_floating_point()
    class_loss.check_range("cross_entropy", target, class_count(x), ignore_index)
    weight = None if weight is None else weight.to(wide.dtype)
    row = F.cross_entropy(
        wide,
        target if has_index else target.to(wide.dtype),
        weight,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    divisor = _divisor(wide, target, weight, ignore_index)
    loss = row if reduction == NONE else row.sum()
    if reduction == MEAN:
        loss = loss / divisor
    return loss.to(dtype), torch.cat([*_row_stats(classes_last(wide)), divisor.reshape(1)])


def _row_stats(x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1]).flatten(), x.new_zeros(x.shape[:-1]).flatten()
    highest = x.amax(-1)
    log_sum = (x - highest.unsqueeze(-1)).exp().sum(-1).log()
    return highest.flatten(), log_sum.flatten()


def _divisor(x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    if target.is_floating_point():
        return x.new_tensor(x.numel() // max(class_count(x), 1))
    return class_loss.divisor(target, weight, ignore_index, x.dtype)


def training(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """Loss and its gradient by x, for the reductions that give a scalar.

    Raises:
        TargetIndexError: as forward.
    """
    options = (ignore_index, reduction, label_smoothing)
    loss, stats = forward(x, target, weight, *options)
    grad = torch.ones_like(loss)
    grad_x, _, _ = backward(grad, x, target, weight, stats, *options, [True, False, False])
    return loss, grad_x


def backward(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, of the target's probabilities and of weight; empty for each that is not wanted."""
    wide = classes_last(x).to(stats.dtype)
    classes = max(class_count(x), 1)
    keep, smooth = 1 - label_smoothing, label_smoothing / classes
    w = wide.new_ones(class_count(x)) if weight is None else weight.to(wide.dtype)
    log_p = torch.log_softmax(wide, -1)

    scale = grad.to(wide.dtype)
    if reduction == MEAN:
        scale = scale / stats[-1]
    scale = scale.expand(wide.shape[:-1])
    if target.is_floating_point():
        share = keep * classes_last(target).to(wide.dtype) + smooth
        q = w * share
    else:
        # An ignored row's scale is 0, and not its gradient: a row without a softmax gives NaN, as in PyTorch.
        counted = target != ignore_index
        scale = scale.where(counted, 0)
        share = torch.full_like(wide, smooth)
        if wide.numel():
            index = target.where(counted, 0).unsqueeze(-1)
            share = share.scatter(-1, index, keep + smooth)
        q = w * share
    scale = scale.unsqueeze(-1)

    unwanted = x.new_empty
    rows = math.prod(wide.shape[:-1])
    grad_x = scale * (log_p.exp() * q.sum(-1, keepdim=True) - q) if wanted[0] else None
    grad_target = -scale * keep * w * log_p if wanted[1] else None
    grad_weight = -(scale * share * log_p).reshape(rows, -1).sum(0) if wanted[2] else None
    return (
        unwanted(0) if grad_x is None else classes_back(grad_x.to(x.dtype).contiguous()),
        unwanted(0)
        if grad_target is None
        else classes_back(grad_target.to(target.dtype).contiguous()),
        unwanted(0) if grad_weight is None or weight is None else grad_weight.to(weight.dtype),
    )
