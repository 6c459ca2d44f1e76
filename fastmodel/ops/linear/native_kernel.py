"""Host wrappers of csrc/linear."""

from __future__ import annotations

from torch import Tensor

from fastmodel.env import native
from fastmodel.ops import linear_layer
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """out = x @ weight.T + bias."""
    x, weight = x.contiguous(), weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    outs, ins = weight.shape
    out = linear_layer.out_like(x, weight)
    native().linear_forward_cpu(
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
    grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; empty for each that is not wanted."""
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    outs, ins = weight.shape
    grad_x, grad_weight, grad_bias = linear_layer.gradients_like(x, weight, wanted)
    native().linear_backward_cpu(
        address(grad),
        address(x),
        address(weight),
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
