"""Host wrappers of csrc/mse_loss's CUDA kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.env import cuda
from fastmodel.ops.mse_loss.native_kernel import laid_out, laid_out_backward
from fastmodel.ops.mse_loss.reference import NONE
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream


def _problem(x: Tensor, target: Tensor, reduction: int) -> tuple:
    """The leading arguments of both kernels."""
    return address(x), address(target), x.numel(), reduction, GPU_DTYPE_CODES[x.dtype]


def forward(x: Tensor, target: Tensor, reduction: int) -> Tensor:
    """As reference.forward."""
    x, target = laid_out(x, target)
    loss = torch.empty_like(x) if reduction == NONE else x.new_empty(())
    partials = None
    if reduction != NONE:
        partials = x.new_empty(cuda().mse_loss_partials, dtype=torch.float64)
    cuda().mse_loss_forward_cuda(
        *_problem(x, target, reduction), address(loss), address(partials), stream(x)
    )
    return loss


def backward(
    grad: Tensor, x: Tensor, target: Tensor, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """As reference.backward."""
    grad, x, target, grad_x, grad_target = laid_out_backward(grad, x, target, reduction, wanted)
    cuda().mse_loss_backward_cuda(
        *_problem(x, target, reduction),
        address(grad),
        address(grad_x) if wanted[0] else 0,
        address(grad_target) if wanted[1] else 0,
        stream(x),
    )
    return grad_x, grad_target
