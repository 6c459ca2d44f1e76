"""The rotary embeddings in Triton: q and k in one launch, the formulas stand in rope/reference.py.

Bytes an element in bfloat16: 2 read and 2 written; three FLOPs: memory-bound. A program has one position of
one sequence and all its heads, so that the tables' row is read once for all of them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import rotary
from fastmodel.ops.triton_host import on_device

TILE = 1024
"""Elements that a program turns at a time: 8 a thread of 4 warps."""


@triton.jit
def _pairs(at, batch, position, batch_step, head_step, position_step, place, heads, head):
    """Pointers to the first of each pair, and which are there."""
    base = at + batch * batch_step + position * position_step
    return base + head.to(tl.int64)[:, None] * head_step + place[None, :], (head < heads)[:, None]


@triton.jit
def _turn(
    x, out, x_batch, x_head, x_position, out_batch, out_head, out_position,
    batch, position, heads, place, gap, is_place, cos_a, cos_b, sin_a, sin_b,
    IS_BACKWARD: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    for start in range(0, heads, HEADS):
        head = start + tl.arange(0, HEADS)
        first, is_head = _pairs(x, batch, position, x_batch, x_head, x_position, place, heads, head)
        to, _ = _pairs(out, batch, position, out_batch, out_head, out_position, place, heads, head)
        mask = is_head & is_place[None, :]
        a = tl.load(first, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(first + gap, mask=mask, other=0.0).to(tl.float32)
        if IS_BACKWARD:
            new_a, new_b = a * cos_a + b * sin_b, b * cos_b - a * sin_a
        else:
            new_a, new_b = a * cos_a - b * sin_a, b * cos_b + a * sin_b
        tl.store(to, new_a.to(out.dtype.element_ty), mask=mask)
        tl.store(to + gap, new_b.to(out.dtype.element_ty), mask=mask)


@triton.jit
def turn_kernel(
    q,
    k,
    out_q,
    out_k,
    cos,
    sin,
    q_batch,
    q_head,
    q_position,
    k_batch,
    k_head,
    k_position,
    out_q_batch,
    out_q_head,
    out_q_position,
    out_k_batch,
    out_k_head,
    out_k_position,
    table_step,
    heads,
    groups,
    length,
    half,
    IS_NEIGHBOURS: tl.constexpr,
    IS_BACKWARD: tl.constexpr,
    WANTS_Q: tl.constexpr,
    WANTS_K: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
):
    """All heads of one position of q and k turned; pairs are neighbours or half a head apart."""
    program = tl.program_id(0).to(tl.int64)
    batch, position = program // length, program % length
    pair = tl.arange(0, HALF)
    is_place = pair < half
    if IS_NEIGHBOURS:
        place, gap = 2 * pair, 1
    else:
        place, gap = pair, half
    row = batch * table_step + position * half * 2 + place
    cos_a = tl.load(cos + row, mask=is_place, other=0.0).to(tl.float32)[None, :]
    cos_b = tl.load(cos + row + gap, mask=is_place, other=0.0).to(tl.float32)[None, :]
    sin_a = tl.load(sin + row, mask=is_place, other=0.0).to(tl.float32)[None, :]
    sin_b = tl.load(sin + row + gap, mask=is_place, other=0.0).to(tl.float32)[None, :]
    if WANTS_Q:
        _turn(
            q, out_q, q_batch, q_head, q_position, out_q_batch, out_q_head, out_q_position,
            batch, position, heads, place, gap, is_place, cos_a, cos_b, sin_a, sin_b,
            IS_BACKWARD, HEADS,
        )  # fmt: skip
    if WANTS_K:
        _turn(
            k, out_k, k_batch, k_head, k_position, out_k_batch, out_k_head, out_k_position,
            batch, position, groups, place, gap, is_place, cos_a, cos_b, sin_a, sin_b,
            IS_BACKWARD, HEADS,
        )  # fmt: skip


def tile_of(half: int, heads: int) -> tuple[int, int]:
    """(heads, pairs) of a tile, powers of two."""
    pairs = max(triton.next_power_of_2(half), 16)
    return min(triton.next_power_of_2(max(heads, 1)), max(TILE // 2 // pairs, 1)), pairs


class TritonRotary:
    """The wrappers for pairs of neighbours, or half a head apart."""

    def __init__(self, is_neighbours: bool) -> None:
        self._is_neighbours = is_neighbours

    def forward(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """q and k turned."""
        return self._turned(q, k, cos, sin, [True, True], is_backward=False)

    def backward(
        self, grad_q: Tensor, grad_k: Tensor, cos: Tensor, sin: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of q and k; an empty tensor for each that `wanted` leaves out."""
        return self._turned(grad_q, grad_k, cos, sin, wanted, is_backward=True)

    def _turned(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, wanted: list[bool], is_backward: bool
    ) -> tuple[Tensor, Tensor]:
        found = rotary.gradients_like(q, k, wanted)
        x = [value if value.stride(-1) == 1 else value.contiguous() for value in (q, k)]
        to = [
            value if value.dim() == 1 or value.stride(-1) == 1 else value.new_empty(value.shape)
            for value in found
        ]
        cos, sin = cos.contiguous(), sin.contiguous()
        batch, _, length, width = q.shape
        heads, half = tile_of(width // 2, max(q.shape[1], k.shape[1]))
        steps = [
            value.stride()[:3] if want else (0, 0, 0)
            for values in (x, to)
            for value, want in zip(values, wanted, strict=True)
        ]
        if batch * length * width:
            with on_device(q):
                turn_kernel[(batch * length,)](
                    *x,
                    *to,
                    cos,
                    sin,
                    *steps[0],
                    *steps[1],
                    *steps[2],
                    *steps[3],
                    cos.stride(0) if cos.dim() == 3 and cos.shape[0] > 1 else 0,
                    q.shape[1],
                    k.shape[1],
                    length,
                    width // 2,
                    IS_NEIGHBOURS=self._is_neighbours,
                    IS_BACKWARD=is_backward,
                    WANTS_Q=wanted[0] and q.numel() > 0,
                    WANTS_K=wanted[1] and k.numel() > 0,
                    HEADS=heads,
                    HALF=half,
                )
        for value, written in zip(found, to, strict=True):
            if written is not value:
                value.copy_(written)
        return found
