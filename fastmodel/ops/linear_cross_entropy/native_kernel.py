"""linear_cross_entropy with the softmax of csrc/cross_entropy between PyTorch's products."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.class_loss import MEAN, NONE, SUM, check_range, out_of_range
from fastmodel.ops.linear_cross_entropy.library import (
    Problem,
    Step,
    losses,
    losses_and_gradients,
    reduced,
)
from fastmodel.ops.linear_cross_entropy.reference import no_gradients
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_condition(x: Tensor, *rest) -> str | None:
    """The kernel takes float32 and bfloat16, and class weights of x's dtype."""
    class_weight = rest[3]
    if x.dtype not in DTYPE_CODES:  # the gradient by which a backward is chosen is float32
        return f"input is {x.dtype}"
    if class_weight is not None and class_weight.dtype != x.dtype:
        return f"input is {x.dtype}, weight is {class_weight.dtype}"
    return None


def backward_condition(grad: Tensor, *rest) -> str | None:
    """As forward_condition."""
    return forward_condition(*rest)


class _Steps:
    """What is made of a chunk of logits; its gradient has the same memory, chunk after chunk."""

    def __init__(self, p: Problem) -> None:
        self._p = p
        self._target = p.target.contiguous()
        self._class_weight = None if p.class_weight is None else p.class_weight.contiguous()
        self._room = torch.empty(0)

    def _gradient_like(self, logits: Tensor) -> Tensor:
        if len(self._room) < len(logits):
            self._room = torch.empty_like(logits)
        return self._room[: len(logits)]

    def _arguments(self, logits: Tensor, part: slice, reduction: int) -> tuple:
        """The leading arguments of both kernels."""
        return (
            address(logits),
            address(self._target) + part.start * self._target.itemsize,
            0,
            address(self._class_weight),
            *logits.shape,
            self._p.ignore_index,
            reduction,
            self._p.label_smoothing,
            DTYPE_CODES[logits.dtype],
            threads(),
        )

    def _forward(
        self, logits: Tensor, part: slice, reduction: int, stats: Tensor | None, d: Tensor | None
    ) -> Tensor:
        loss = logits.new_empty(len(logits), dtype=torch.float32)
        row = native().cross_entropy_forward_cpu(
            *self._arguments(logits, part, reduction), 0, address(loss), address(stats), address(d)
        )
        if row >= 0:
            op, classes, ignored = "linear_cross_entropy", logits.shape[1], self._p.ignore_index
            raise out_of_range(op, self._target, part.start + row, classes, ignored)
        return loss

    def loss(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The loss alone; the logits stand for a gradient."""
        return self._forward(logits, part, NONE, None, None), logits

    def loss_and_gradient(self, logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """The loss and the gradient of the rows' sum, in one pass."""
        d = self._gradient_like(logits)
        return self._forward(logits, part, SUM, None, d), d

    def scaled(self, scales: Tensor) -> Step:
        """A step that multiplies each row's gradient."""
        scales = scales.to(self._p.x.dtype).contiguous()

        def step(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
            d = self._gradient_like(logits)
            stats = logits.new_empty(2 * len(logits) + 1, dtype=torch.float32)
            loss = self._forward(logits, part, NONE, stats, None)
            native().cross_entropy_backward_cpu(
                *self._arguments(logits, part, NONE),
                address(scales) + part.start * scales.itemsize,
                address(stats),
                address(d),
                0,
            )
            return loss, d

        return step


def _losses_and_gradients(p: Problem, grad: Tensor) -> tuple[Tensor, tuple]:
    steps = _Steps(p)
    if p.reduction != NONE:
        scale = (grad / p.divisor() if p.reduction == MEAN else grad).item()
        # One factor for all, which the products take in; but no row that is ignored is multiplied with NaN.
        if math.isfinite(scale):
            return losses_and_gradients(p, steps.loss_and_gradient, scale)
    return losses_and_gradients(p, steps.scaled(p.scales(grad)))


def forward_cpu(
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
    """As reference.forward."""
    options = (ignore_index, reduction, label_smoothing)
    p = Problem(x, weight, bias, target, class_weight, *options, wanted)
    if class_weight is not None:  # which the divisor looks up; elsewhere the kernel sees to it
        check_range("linear_cross_entropy", target, weight.shape[0], ignore_index)
    if reduction == NONE or not any(wanted):
        return reduced(p, losses(p, _Steps(p).loss)), *no_gradients(x)
    rows, found = _losses_and_gradients(p, x.new_ones((), dtype=p.wide))
    return reduced(p, rows), *found


def backward_cpu(
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
    """As reference.backward."""
    options = (ignore_index, reduction, label_smoothing)
    p = Problem(x, weight, bias, target, class_weight, *options, wanted)
    return _losses_and_gradients(p, grad)[1]
