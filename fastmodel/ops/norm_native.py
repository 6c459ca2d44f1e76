"""Host wrappers of the norms' CPU kernels, csrc/common/norm.h."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.native import DTYPE_CODES, address, threads
from fastmodel.ops.norm import row_count, row_size


def promotes_to_a_native_dtype(x: Tensor, residual: Tensor, *_) -> str | None:
    """The kernels of a residual norm take what promotes to float32 or bfloat16."""
    dtype = torch.promote_types(x.dtype, residual.dtype)
    return None if dtype in DTYPE_CODES else f"x and residual promote to {dtype}"


class NativeNorm:
    """The wrappers of csrc/<op>."""

    def __init__(self, op: str, stats: int) -> None:
        """stats: how many numbers a row forward leaves."""
        self._op, self._stats = op, stats

    def _kernel(self, pass_: str) -> Callable[..., None]:
        return getattr(native(), f"{self._op}_{pass_}_cpu")

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        dims: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """out, sum (x where there is no residual) and stats."""
        if residual is not None and residual.dtype != x.dtype:
            dtype = torch.promote_types(x.dtype, residual.dtype)
            x, residual = x.to(dtype), residual.to(dtype)
        x = x.contiguous()
        residual = None if residual is None else residual.contiguous()
        weight, bias = _wide(weight), _wide(bias)
        out = torch.empty_like(x)
        total = x if residual is None else torch.empty_like(x)
        stats = x.new_empty((self._stats, row_count(x, dims)), dtype=torch.float32)
        self._kernel("forward")(
            *_problem(x, weight, bias, dims, eps),
            address(x),
            address(residual),
            address(total),
            address(out),
            address(stats),
        )
        return out, total, stats

    def backward(
        self,
        grad: Tensor,
        grad_sum: Tensor | None,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        stats: Tensor,
        dims: int,
        eps: float,
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias, as many as there are in wanted; empty for each not wanted."""
        grad, x, stats = grad.contiguous(), x.contiguous(), stats.contiguous()
        grad_sum = None if grad_sum is None else grad_sum.contiguous()
        wide = _wide(weight)  # to be kept until the kernel is done
        grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
        grad_weight = _gradient_of(weight) if wanted[1] else None
        grad_bias = _gradient_of(bias) if wanted[-1] and len(wanted) == 3 else None
        self._kernel("backward")(
            *_problem(x, wide, None, dims, eps),
            address(grad),
            address(grad_sum),
            address(x),
            address(stats),
            address(grad_x) if wanted[0] else 0,
            address(grad_weight),
            address(grad_bias),
        )
        gradients = [_stored(grad_weight, weight, x), _stored(grad_bias, bias, x)]
        return grad_x, *gradients[: len(wanted) - 1]


def _wide(parameter: Tensor | None) -> Tensor | None:
    """As the kernels read weight and bias."""
    if parameter is None:
        return None
    return (parameter if parameter.dtype is torch.float32 else parameter.float()).contiguous()


def _gradient_of(parameter: Tensor | None) -> Tensor:
    """As the kernels write it; of a parameter that is there, or it would not be wanted."""
    assert parameter is not None
    return torch.empty_like(parameter, dtype=torch.float32, memory_format=torch.contiguous_format)


def _stored(gradient: Tensor | None, parameter: Tensor | None, x: Tensor) -> Tensor:
    """In the parameter's dtype; empty where it is not wanted."""
    if gradient is None or parameter is None:
        return x.new_empty(0)
    return gradient if parameter.dtype is torch.float32 else gradient.to(parameter.dtype)


def _problem(x: Tensor, weight: Tensor | None, bias: Tensor | None, dims: int, eps: float) -> tuple:
    """The leading arguments of both kernels."""
    rows, features = row_count(x, dims), row_size(x, dims)
    code = DTYPE_CODES[x.dtype]
    return address(weight), address(bias), rows, features, eps, code, threads()
