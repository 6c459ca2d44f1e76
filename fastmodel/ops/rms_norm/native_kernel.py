"""Host wrappers of csrc/rms_norm."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.norm_native import NativeNorm

_KERNELS = NativeNorm("rms_norm", stats=1)


def forward_cpu(x: Tensor, weight: Tensor | None, dims: int, eps: float) -> tuple[Tensor, Tensor]:
    """As reference.forward."""
    out, _, stats = _KERNELS.forward(x, None, weight, None, dims, eps)
    return out, stats


def backward_cpu(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    dims: int,
    eps: float,
    wanted: list[bool],
) -> tuple[Tensor, ...]:
    """As reference.backward."""
    return _KERNELS.backward(grad, None, x, weight, None, stats, dims, eps, wanted)
