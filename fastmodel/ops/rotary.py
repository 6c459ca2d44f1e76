"""What the rotary embeddings share: q and k turned by tables of cosines and sines, both in one call.

    q (B, H, T, D), k (B, G, T, D), cos and sin (T, D), (1, T, D) or (B, T, D); D even

Which elements of D make a pair is each op's own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.errors import InputError
from fastmodel.ops import checks
from fastmodel.ops.native import DTYPE_CODES, address, threads


def check(op: str, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    """q, k and the tables fit together.

    Raises:
        InputError: they do not, or a table wants a gradient.
    """
    if q.dim() != 4 or k.dim() != 4 or k.shape[::2] != q.shape[::2] or k.shape[3] != q.shape[3]:
        raise InputError(
            f"{op}: q has shape {tuple(q.shape)}, k {tuple(k.shape)}; "
            "pass q of shape (B, H, T, D) and k of shape (B, G, T, D)"
        )
    batch, _, length, width = q.shape
    if width % 2:
        raise InputError(f"{op}: q has {width} elements a head; pass an even number, a pair each")
    good = ((length, width), (1, length, width), (batch, length, width))
    for name, table in (("cos", cos), ("sin", sin)):
        if tuple(table.shape) not in good:
            raise InputError(
                f"{op}: {name} has shape {tuple(table.shape)}; q of shape {tuple(q.shape)} asks for "
                f"{good[0]}, {good[1]} or {good[2]}"
            )
    if cos.dtype != sin.dtype or cos.shape != sin.shape:
        raise InputError(
            f"{op}: cos is {checks.dtype_name(cos.dtype)} of shape {tuple(cos.shape)}, "
            f"sin {checks.dtype_name(sin.dtype)} of shape {tuple(sin.shape)}; make them alike"
        )
    if (cos.requires_grad or sin.requires_grad) and torch.is_grad_enabled():
        raise InputError(f"{op}: cos and sin have no gradient; pass cos.detach() and sin.detach()")
    checks.floating(op, "q", q)
    checks.floating(op, "cos", cos)
    if k.dtype != q.dtype:
        raise InputError(
            f"{op}: q is {checks.dtype_name(q.dtype)}, k is {checks.dtype_name(k.dtype)}; convert one"
        )
    checks.same_device(op, "q", q, k=k, cos=cos, sin=sin)


def heads(table: Tensor) -> Tensor:
    """A table to multiply (B, H, T, D) with."""
    return table.unsqueeze(-3)


def laid_out_as(x: Tensor, value: Tensor) -> Tensor:
    """`value` in the dtype and, as far as x has no gaps, the strides of x."""
    return torch.empty_like(x).copy_(value)


def gradients_like(grad_q: Tensor, grad_k: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Unwritten gradients of q and k; empty for each that is not wanted."""
    return (
        torch.empty_like(grad_q) if wanted[0] else grad_q.new_empty(0),
        torch.empty_like(grad_k) if wanted[1] else grad_k.new_empty(0),
    )


def wide_table(table: Tensor) -> Tensor:
    """The table as kernels read it: (1 or B, T, D), contiguous, float32."""
    table = table.to(torch.float32).contiguous()
    return table if table.dim() == 3 else table.unsqueeze(0)


class NativeRotary:
    """The wrappers of csrc/<op>."""

    def __init__(self, op: str) -> None:
        self._op = op

    def forward_cpu(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """q and k turned."""
        return self._turned(q, k, cos, sin, [True, True], is_backward=False)

    def backward_cpu(
        self, grad_q: Tensor, grad_k: Tensor, cos: Tensor, sin: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of q and k; an empty tensor for each that `wanted` leaves out."""
        return self._turned(grad_q, grad_k, cos, sin, wanted, is_backward=True)

    def _turned(self, q, k, cos, sin, wanted: list[bool], is_backward: bool):
        cos, sin = wide_table(cos), wide_table(sin)
        found = gradients_like(q, k, wanted)
        kernel: Callable[..., None] = getattr(native(), f"{self._op}_turn_cpu")
        for x, out, want in zip((q, k), found, wanted, strict=True):
            if not want or not x.numel():
                continue
            x = x if x.stride(-1) == 1 else x.contiguous()
            to = out if out.stride(-1) == 1 else out.new_empty(out.shape)
            kernel(
                address(x),
                address(to),
                address(cos),
                address(sin),
                *x.shape,
                *x.stride()[:3],
                *to.stride()[:3],
                cos.stride(0) if cos.shape[0] > 1 else 0,
                is_backward,
                DTYPE_CODES[x.dtype],
                threads(),
            )
            if to is not out:
                out.copy_(to)
        return found
