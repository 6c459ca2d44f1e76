"""Host wrappers of csrc/mse_loss."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.mse_loss.reference import NONE
from fastmodel.ops.native import DTYPE_CODES, address, threads


def laid_out(x: Tensor, *others: Tensor) -> list[Tensor]:
    """All of them without gaps and in one order, that of x as `empty_like` keeps it."""
    if not x.is_contiguous() and not (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ):
        x = torch.empty_like(x).copy_(x)
    return [x, *(t if t.stride() == x.stride() else torch.empty_like(x).copy_(t) for t in others)]


def laid_out_backward(
    grad: Tensor, x: Tensor, target: Tensor, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """grad, x and target as backward reads them; room for grad_x and grad_target, empty if not wanted."""
    if reduction == NONE:
        x, target, grad = laid_out(x, target, grad)
    else:
        x, target = laid_out(x, target)
    grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
    grad_target = torch.empty_like(x) if wanted[1] else x.new_empty(0)
    return grad, x, target, grad_x, grad_target


def _problem(x: Tensor, target: Tensor, reduction: int) -> tuple:
    """The leading arguments of both kernels."""
    return address(x), address(target), x.numel(), reduction, DTYPE_CODES[x.dtype], threads()


def forward_cpu(x: Tensor, target: Tensor, reduction: int) -> Tensor:
    """As reference.forward."""
    x, target = laid_out(x, target)
    loss = torch.empty_like(x) if reduction == NONE else x.new_empty(())
    native().mse_loss_forward_cpu(*_problem(x, target, reduction), address(loss))
    return loss


def backward_cpu(
    grad: Tensor, x: Tensor, target: Tensor, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """As reference.backward."""
    grad, x, target, grad_x, grad_target = laid_out_backward(grad, x, target, reduction, wanted)
    native().mse_loss_backward_cpu(
        *_problem(x, target, reduction),
        address(grad),
        address(grad_x) if wanted[0] else 0,
        address(grad_target) if wanted[1] else 0,
    )
    return grad_x, grad_target
