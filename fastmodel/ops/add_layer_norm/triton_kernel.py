"""add_layer_norm in Triton: the passes of ops/triton_norm.py."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.triton_norm_host import TritonNorm, promotes_to_a_gpu_dtype

__all__ = ["backward", "forward", "promotes_to_a_gpu_dtype"]

_PASSES = TritonNorm(is_centred=True)


def forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    dims: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """As reference.forward."""
    return _PASSES.forward(x, residual, weight, bias, dims, eps)


def backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    total: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """As reference.backward."""
    return _PASSES.backward(grad, grad_sum, total, weight, bias, stats, dims, wanted)
