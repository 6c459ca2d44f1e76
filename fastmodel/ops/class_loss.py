"""What the losses over class indices share: reductions, the indices' check, what the mean divides by."""

from __future__ import annotations

from torch import Tensor

from fastmodel.errors import TargetIndexError

NONE, MEAN, SUM = 0, 1, 2
"""Reductions, as in csrc/common/reduction.h."""

REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


def out_of_range(
    op: str, target: Tensor, row: int, classes: int, ignore_index: int
) -> TargetIndexError:
    """The error for the class index of `row`."""
    position: list[int] = []
    for size in reversed(target.shape):
        row, index = divmod(row, size)
        position.insert(0, index)
    where = f"target{position}" if position else "target"
    return TargetIndexError(
        f"{op}: Target {int(target[tuple(position)])} is out of bounds: {where} must be one of "
        f"the {classes} classes 0 .. {classes - 1} of input, or ignore_index {ignore_index}"
    )


def check_range(op: str, target: Tensor, classes: int, ignore_index: int) -> None:
    """Every class index is a class or ignored; looked at on the CPU only, and not if there are probabilities.

    Raises:
        TargetIndexError: one is not.
    """
    if target.device.type != "cpu" or target.is_floating_point():
        return
    is_wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if is_wrong.any():
        first = int(is_wrong.flatten().int().argmax())
        raise out_of_range(op, target, first, classes, ignore_index)


def divisor(target: Tensor, weight: Tensor | None, ignore_index: int, dtype) -> Tensor:
    """What the mean divides by: the weights of the class indices that are not ignored, summed."""
    counted = target != ignore_index
    if weight is None or weight.numel() == 0:
        return counted.sum().to(dtype)
    return (weight[target.where(counted, 0)] * counted).sum()
