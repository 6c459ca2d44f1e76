"""The gated linear units in Triton.

    out = activation(gate) * up
    grad_gate = grad * up * activation'(gate), grad_up = grad * activation(gate)

Bytes an element in bfloat16: forward reads 4 and writes 2, backward reads 6 and writes 4. Some 15 FLOPs,
one of them an exponential: memory-bound. A thread has 8 elements, so that each of its loads is 16 bytes in
bfloat16.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import gated
from fastmodel.ops.triton_host import on_device

BLOCK = 1024


@triton.jit
def _place(at, columns, step, IS_FLAT: tl.constexpr):
    """Where element `at` of a contiguous tensor lies in one whose rows are `step` apart."""
    if IS_FLAT:
        return at
    else:
        return at // columns * step + at % columns


@triton.jit
def forward_kernel(
    gate,
    up,
    out,
    size,
    columns,
    gate_step,
    up_step,
    ACTIVATION: tl.constexpr,
    IS_FLAT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out = ACTIVATION(gate) * up."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    z = tl.load(gate + _place(at, columns, gate_step, IS_FLAT), mask=mask, other=0.0).to(tl.float32)
    u = tl.load(up + _place(at, columns, up_step, IS_FLAT), mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, (ACTIVATION(z) * u).to(out.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    grad,
    gate,
    up,
    grad_gate,
    grad_up,
    size,
    columns,
    grad_step,
    gate_step,
    up_step,
    ACTIVATION: tl.constexpr,
    CHAIN: tl.constexpr,
    IS_FLAT: tl.constexpr,
    WANTS_GATE: tl.constexpr,
    WANTS_UP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_gate = CHAIN(grad * up, gate), grad_up = grad * ACTIVATION(gate)."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    g = tl.load(grad + _place(at, columns, grad_step, IS_FLAT), mask=mask, other=0.0).to(tl.float32)
    z = tl.load(gate + _place(at, columns, gate_step, IS_FLAT), mask=mask, other=0.0).to(tl.float32)
    if WANTS_GATE:
        u = tl.load(up + _place(at, columns, up_step, IS_FLAT), mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_gate + at, CHAIN(g * u, z).to(grad_gate.dtype.element_ty), mask=mask)
    if WANTS_UP:
        tl.store(grad_up + at, (g * ACTIVATION(z)).to(grad_up.dtype.element_ty), mask=mask)


class TritonGate:
    """The wrappers for one activation and its chain rule, both jitted."""

    def __init__(self, activation: Any, chain: Any) -> None:
        self._activation, self._chain = activation, chain

    def forward(self, gate: Tensor, up: Tensor) -> Tensor:
        """out = activation(gate) * up."""
        (gate, gate_step), (up, up_step) = gated.rows(gate), gated.rows(up)
        out, columns = gate.new_empty(gate.shape), _columns(gate)
        if out.numel():
            with on_device(gate):
                forward_kernel[(triton.cdiv(out.numel(), BLOCK),)](
                    gate,
                    up,
                    out,
                    out.numel(),
                    columns,
                    gate_step,
                    up_step,
                    ACTIVATION=self._activation,
                    IS_FLAT=gate_step == up_step == columns,
                    BLOCK=BLOCK,
                )
        return out

    def backward(
        self, grad: Tensor, gate: Tensor, up: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up; an empty tensor for each that `wanted` leaves out."""
        (grad, grad_step), (gate, gate_step) = gated.rows(grad), gated.rows(gate)
        up, up_step = gated.rows(up)
        grad_gate, grad_up = gated.gradients_like(gate, wanted)
        size, columns = gate.numel(), _columns(gate)
        if size and any(wanted):
            with on_device(gate):
                backward_kernel[(triton.cdiv(size, BLOCK),)](
                    grad,
                    gate,
                    up,
                    grad_gate,
                    grad_up,
                    size,
                    columns,
                    grad_step,
                    gate_step,
                    up_step,
                    ACTIVATION=self._activation,
                    CHAIN=self._chain,
                    IS_FLAT=grad_step == gate_step == up_step == columns,
                    WANTS_GATE=wanted[0],
                    WANTS_UP=wanted[1],
                    BLOCK=BLOCK,
                )
        return grad_gate, grad_up


def _columns(gate: Tensor) -> int:
    return gate.shape[-1] if gate.dim() else 1
