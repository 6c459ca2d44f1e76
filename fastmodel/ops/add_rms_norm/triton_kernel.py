"""add_rms_norm in Triton: the passes of ops/triton_norm.py."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.triton_norm_host import TritonNorm, promotes_to_a_gpu_dtype

__all__ = ["backward", "forward", "promotes_to_a_gpu_dtype"]

_PASSES = TritonNorm(is_centred=False)


def forward(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    dims: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """As reference.forward."""
    return _PASSES.forward(x, residual, weight, None, dims, eps)


def backward(
    grad: Tensor,
    grad_sum: Tensor | None,
    total: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """As reference.backward."""
    return _PASSES.backward(grad, grad_sum, total, weight, None, stats, dims, wanted)
