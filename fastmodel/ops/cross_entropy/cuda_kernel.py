"""Host wrappers of csrc/cross_entropy's CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel import env
from fastmodel.ops.class_loss import NONE, check_range
from fastmodel.ops.cross_entropy.native_kernel import laid_out, problem_of
from fastmodel.ops.cross_entropy.reference import class_count, classes_back
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream


def _forward(x: Tensor, problem: tuple, loss: Tensor, stats: Tensor | None, grad_x: Tensor | None):
    scratch = x.new_empty(problem[4] + 2, dtype=torch.float32)
    env.cuda().cross_entropy_forward_cuda(
        *problem, address(loss), address(stats), address(grad_x), address(scratch), stream(x)
    )


def forward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.forward; a class index out of range fails the device."""
    check_range("cross_entropy", target, class_count(x), ignore_index)
    x, target, weight = laid_out(x, target, weight)
    problem = problem_of(x, target, weight, ignore_index, reduction, label_smoothing)
    loss = x.new_empty(x.shape[:-1] if reduction == NONE else ())
    stats = x.new_empty(2 * problem[4] + 1, dtype=torch.float32)
    _forward(x, problem, loss, stats, None)
    return loss, stats


def training(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.training; a class index out of range fails the device."""
    check_range("cross_entropy", target, class_count(x), ignore_index)
    x, target, weight = laid_out(x, target, weight)
    problem = problem_of(x, target, weight, ignore_index, reduction, label_smoothing)
    loss, grad_x = x.new_empty(()), torch.empty_like(x)
    _forward(x, problem, loss, None, grad_x)
    return loss, classes_back(grad_x)


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
    """As reference.backward."""
    check_range("cross_entropy", target, class_count(x), ignore_index)
    grad, stats = grad.contiguous(), stats.contiguous()
    x, target, weight = laid_out(x, target, weight)
    problem = problem_of(x, target, weight, ignore_index, reduction, label_smoothing)
    grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
    grad_target = torch.empty_like(x) if wanted[1] else x.new_empty(0)
    scratch = x.new_empty(problem[4] + 2, dtype=torch.float32)
    env.cuda().cross_entropy_backward_cuda(
        *problem,
        address(grad),
        address(stats),
        address(grad_x) if wanted[0] else 0,
        address(grad_target) if wanted[1] else 0,
        address(scratch),
        stream(x),
    )
    return (
        classes_back(grad_x) if wanted[0] else grad_x,
        classes_back(grad_target) if wanted[1] else grad_target,
        x.new_empty(0),
    )


def scale_(gradient: Tensor, grad: Tensor) -> None:
    """gradient *= grad, a scalar on the device; where that is 1 the gradient is not touched.

    Args:
        gradient: as `training` leaves it; any order of dimensions, no gaps.
        grad: of gradient's dtype.
    """
    env.cuda().cross_entropy_scale_cuda(
        address(gradient),
        address(grad),
        gradient.numel(),
        GPU_DTYPE_CODES[gradient.dtype],
        stream(gradient),
    )
