"""Host wrappers of csrc/cross_entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.class_loss import NONE, out_of_range
from fastmodel.ops.cross_entropy.reference import class_count, classes_back, classes_last
from fastmodel.ops.native import DTYPE_CODES, GPU_DTYPE_CODES, address, threads

_SCALARS = {dtype: torch.empty((), dtype=dtype) for dtype in DTYPE_CODES}
"""To make a scalar like: `empty_like` takes half the time of `new_empty`."""


def one_dtype(x: Tensor, target: Tensor, weight: Tensor | None, *_) -> str | None:
    """The kernel takes probabilities and weight of x's dtype."""
    for name, tensor in (("target", target), ("weight", weight)):
        if tensor is not None and tensor.is_floating_point() and tensor.dtype != x.dtype:
            return f"input is {x.dtype}, {name} is {tensor.dtype}"
    return None


def one_dtype_and_no_weight_gradient(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, *rest
) -> str | None:
    """As one_dtype; the gradient of weight is left to the reference."""
    if rest[-1][2]:
        return "it has no gradient of weight"
    return one_dtype(x, target, weight) or one_dtype(grad, x, None)


def problem_of(x, target, weight, ignore_index, reduction, label_smoothing) -> tuple:
    """The leading arguments of all kernels; x, target and weight are contiguous, classes last."""
    has_index = not target.is_floating_point()
    classes = x.shape[-1]
    return (
        address(x),
        address(target) if has_index else 0,
        0 if has_index else address(target),
        address(weight),
        target.numel() if has_index else x.numel() // max(classes, 1),
        classes,
        ignore_index,
        reduction,
        label_smoothing,
        GPU_DTYPE_CODES[x.dtype],
    )


def _problem(*args) -> tuple:
    return *problem_of(*args), threads()


def laid_out(x: Tensor, target: Tensor, weight: Tensor | None) -> tuple:
    """All of them contiguous, the classes last."""
    if x.dim() > 2:
        x, target = classes_last(x), classes_last(target) if target.is_floating_point() else target
    weight = None if weight is None else weight.contiguous()
    return x.contiguous(), target.contiguous(), weight


def forward_cpu(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.forward."""
    classes = class_count(x)
    x, target, weight = laid_out(x, target, weight)
    problem = _problem(x, target, weight, ignore_index, reduction, label_smoothing)
    loss = x.new_empty(x.shape[:-1] if reduction == NONE else ())
    stats = x.new_empty(2 * problem[4] + 1, dtype=torch.float32)
    row = native().cross_entropy_forward_cpu(*problem, address(loss), 0, address(stats), 0)
    if row >= 0:
        raise out_of_range("cross_entropy", target, row, classes, ignore_index)
    return loss, stats


def training_cpu(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.training."""
    classes = class_count(x)
    x, target, weight = laid_out(x, target, weight)
    problem = _problem(x, target, weight, ignore_index, reduction, label_smoothing)
    loss, grad_x = torch.empty_like(_SCALARS[x.dtype]), torch.empty_like(x)
    row = native().cross_entropy_forward_cpu(*problem, address(loss), 0, 0, address(grad_x))
    if row >= 0:
        raise out_of_range("cross_entropy", target, row, classes, ignore_index)
    return loss, classes_back(grad_x)


def backward_cpu(
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
    """As reference.backward."""
    grad, stats = grad.contiguous(), stats.contiguous()
    x, target, weight = laid_out(x, target, weight)
    problem = _problem(x, target, weight, ignore_index, reduction, label_smoothing)
    grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
    grad_target = torch.empty_like(x) if wanted[1] else x.new_empty(0)
    row = native().cross_entropy_backward_cpu(
        *problem,
        address(grad),
        address(stats),
        address(grad_x) if wanted[0] else 0,
        address(grad_target) if wanted[1] else 0,
    )
    if row >= 0:
        raise out_of_range("cross_entropy", target, row, x.shape[-1], ignore_index)
    return (
        classes_back(grad_x) if wanted[0] else grad_x,
        classes_back(grad_target) if wanted[1] else grad_target,
        x.new_empty(0),
    )
