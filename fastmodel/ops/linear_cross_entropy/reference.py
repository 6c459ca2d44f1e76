"""linear_cross_entropy in plain PyTorch: the definition, the oracle and the last fallback.

    logits = x @ weight.T + bias          x (N, D), weight (C, D), bias (C,) or None, logits (N, C)

With class weights w (1 if there are none), label smoothing e and class indices t (N,), for each row:

    q_c  = w_c ((1 - e) [c = t] + e / C)
    row  = -sum_c q_c log softmax(logits)_c         0 where t is ignore_index

    loss = row, sum(row), or sum(row) / divisor,    divisor = sum of w[t] over the rows not ignored

The loss is in float32, in float64 for float64, and so is the arithmetic. Where gradients are `wanted` of a
loss that is a scalar, forward leaves them too, for an incoming gradient of 1:

    d = (softmax(logits) sum_c q_c - q) / divisor
    grad_x = d @ weight, grad_weight = d.T @ x, grad_bias = sum of d over rows

Backward starts again from the inputs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import class_loss, linear_layer
from fastmodel.ops.class_loss import MEAN, NONE


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the loss and of all arithmetic for inputs of this dtype."""
    return torch.promote_types(dtype, torch.float32)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and its gradients by x, weight and bias: empty for each that is not wanted or a loss a row.

    Raises:
        TargetIndexError: a class index is out of range (on the CPU; other devices report it themselves).
    """
    classes = weight.shape[0]
    class_loss.check_range("linear_cross_entropy", target, classes, ignore_index)
    options = (ignore_index, reduction, label_smoothing)
    logits = _logits(x, weight, bias)
    w = None if class_weight is None else class_weight.to(logits.dtype)
    row = F.cross_entropy(
        logits,
        target,
        w,
        ignore_index=ignore_index,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if reduction == NONE:
        return row, *no_gradients(x)
    loss = row.sum()
    if reduction == MEAN:
        loss = loss / class_loss.divisor(target, w, ignore_index, logits.dtype)
    if not any(wanted):
        return loss, *no_gradients(x)
    grad = torch.ones_like(loss)
    return loss, *backward(grad, x, weight, bias, target, class_weight, *options, wanted)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    logits = _logits(x, weight, bias)
    classes = max(weight.shape[0], 1)
    w = None if class_weight is None else class_weight.to(logits.dtype)
    counted = target != ignore_index
    share = torch.full_like(logits, label_smoothing / classes)
    if logits.numel():
        index = target.where(counted, 0).unsqueeze(-1)
        share = share.scatter(-1, index, 1 - label_smoothing + label_smoothing / classes)
    q = share if w is None else w * share
    scale = row_scales(grad, target, w, ignore_index, reduction).unsqueeze(-1)
    d = scale * (torch.softmax(logits, -1) * q.sum(-1, keepdim=True) - q)
    wide = logits.dtype
    found = linear_layer.gradients(d, x.to(wide), weight.to(wide), wanted)
    grad_x, grad_weight, grad_bias = found
    return (
        grad_x.to(x.dtype),
        grad_weight.to(weight.dtype),
        grad_bias if bias is None else grad_bias.to(bias.dtype),
    )


def row_scales(
    grad: Tensor, target: Tensor, class_weight: Tensor | None, ignore_index: int, reduction: int
) -> Tensor:
    """(N,): what each row's gradient is multiplied with; 0 for a row that is ignored."""
    if reduction == MEAN:
        grad = grad / class_loss.divisor(target, class_weight, ignore_index, grad.dtype)
    return grad.expand(target.shape).where(target != ignore_index, 0)


def no_gradients(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Three empty tensors."""
    return x.new_empty(0), x.new_empty(0), x.new_empty(0)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    wide = wide_dtype(x.dtype)
    return F.linear(x.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
