"""Host wrappers of csrc/add_rms_norm."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.norm_native import NativeNorm, promotes_to_a_native_dtype

__all__ = ["backward_cpu", "forward_cpu", "promotes_to_a_native_dtype"]

_KERNELS = NativeNorm("add_rms_norm", stats=1)


def forward_cpu(
    x: Tensor, residual: Tensor, weight: Tensor | None, dims: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.forward."""
    return _KERNELS.forward(x, residual, weight, None, dims, eps)


def backward_cpu(
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
    return _KERNELS.backward(grad, grad_sum, total, weight, None, stats, dims, eps, wanted)
