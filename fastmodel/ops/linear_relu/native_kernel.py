"""Host wrappers of csrc/linear_relu.

`cpu` rows are the fused kernels. `library` rows leave the products to PyTorch; backward masks the gradient
and sums the bias gradient in one pass of its own.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    outs, ins = weight.shape
    out = x.new_empty((*x.shape[:-1], outs))
    native().linear_relu_forward_cpu(
        address(x),
        address(weight),
        address(bias),
        address(out),
        out.numel() // max(outs, 1),
        ins,
        outs,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return out


def backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    grad, x, weight, out = grad.contiguous(), x.contiguous(), weight.contiguous(), out.contiguous()
    outs, ins = weight.shape
    grad_x = x.new_empty(x.shape if wanted[0] else (0,))
    grad_weight = x.new_empty(weight.shape if wanted[1] else (0,))
    grad_bias = x.new_empty((outs,) if wanted[2] else (0,))
    masked = grad.new_empty(grad.shape, dtype=torch.float32)
    native().linear_relu_backward_cpu(
        address(grad),
        address(x),
        address(weight),
        address(out),
        address(masked),
        address(grad_x) if wanted[0] else 0,
        address(grad_weight) if wanted[1] else 0,
        address(grad_bias) if wanted[2] else 0,
        grad.numel() // max(outs, 1),
        ins,
        outs,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return grad_x, grad_weight, grad_bias


def forward_library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    return F.linear(x, weight, bias).relu_()


def backward_library(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    outs, ins = weight.shape
    rows = math.prod(x.shape[:-1])
    grad = grad.reshape(rows, outs).contiguous()
    out = out.contiguous()
    masked = torch.empty_like(grad)
    grad_bias = grad.new_empty(outs if wanted[2] else 0)
    native().linear_relu_mask_cpu(
        address(grad),
        address(out),
        address(masked),
        address(grad_bias) if wanted[2] else 0,
        rows,
        outs,
        DTYPE_CODES[x.dtype],
        threads(),
    )
    return (
        (masked @ weight).reshape(x.shape) if wanted[0] else grad.new_empty(0),
        masked.T @ x.reshape(rows, ins) if wanted[1] else grad.new_empty(0),
        grad_bias,
    )
