"""The Triton kernels of the ops that are a linear layer and an elementwise activation.

    forward   out = activation(x @ weight.T + bias)      x (rows, ins), weight (outs, ins), out (rows, outs)
    backward  chained = chain(grad, saved), saved being out or what the activation was applied to
              grad_x = chained @ weight, grad_weight = chained.T @ x, grad_bias = sum over rows of chained

Forward: 2 rows ins outs FLOPs on tensor cores, against (rows ins + outs ins + rows outs) elements moved once:
at 1024 features bound by arithmetic on any GPU. The epilogue works on the sums in registers, so that bias,
activation and dropout move nothing but `pre`, where backward wants it. Programs walk the output in groups of
row blocks, so that a group's blocks of weight are still in L2 (as in Triton's own matrix product tutorial).

Backward: the pass of ops/triton_chain.py, then two products, which are left to PyTorch's library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import linear_layer
from fastmodel.ops.triton_chain import chain
from fastmodel.ops.triton_host import on_device, precision
from fastmodel.ops.triton_math import dot, random_bits


class Blocks(NamedTuple):
    """Of one program of the forward pass."""

    rows: int
    outs: int
    ins: int
    warps: int
    stages: int


def blocks_of(rows: int, outs: int, dtype: torch.dtype) -> Blocks:
    """Large blocks where they fill a GPU (2 for each of about 100 multiprocessors), else small ones.

    Unmeasured; a block's share of the operands is 64 bytes a row, two 32-byte sectors.
    """
    ins = 32 if dtype == torch.float32 else 64
    if rows * outs >= 200 * 128 * 128:
        return Blocks(128, 128, ins, 8, 3)
    return Blocks(64, 64, ins, 4, 3)


@triton.jit(do_not_specialize=["seed"])
def forward_kernel(
    x,
    weight,
    bias,
    out,
    pre,
    rows,
    ins,
    outs,
    seed,
    threshold,
    scale,
    ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    KEEPS_PRE: tl.constexpr,
    DROPS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTS: tl.constexpr,
    BLOCK_INS: tl.constexpr,
    GROUP: tl.constexpr,
):
    """out = ACTIVATION(x @ weight.T + bias), times keep * scale where it DROPS; pre where it KEEPS_PRE."""
    program = tl.program_id(0)
    row_blocks, out_blocks = tl.cdiv(rows, BLOCK_ROWS), tl.cdiv(outs, BLOCK_OUTS)
    first = program // (GROUP * out_blocks) * GROUP
    height = min(row_blocks - first, GROUP)
    inside = program % (GROUP * out_blocks)
    row = (first + inside % height).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = (inside // height).to(tl.int64) * BLOCK_OUTS + tl.arange(0, BLOCK_OUTS)
    has_row, has_column = row < rows, column < outs

    acc = tl.zeros([BLOCK_ROWS, BLOCK_OUTS], tl.float32)
    for start in range(0, ins, BLOCK_INS):
        at = start + tl.arange(0, BLOCK_INS)
        x_block = tl.load(
            x + row[:, None] * ins + at[None, :],
            mask=has_row[:, None] & (at < ins)[None, :],
            other=0.0,
        )
        weight_block = tl.load(
            weight + column[None, :] * ins + at[:, None],
            mask=has_column[None, :] & (at < ins)[:, None],
            other=0.0,
        )
        acc = dot(x_block, weight_block, acc, PRECISION)
    if HAS_BIAS:
        acc += tl.load(bias + column, mask=has_column, other=0.0).to(tl.float32)[None, :]

    place = row[:, None] * outs + column[None, :]
    mask = has_row[:, None] & has_column[None, :]
    if KEEPS_PRE:
        tl.store(pre + place, acc.to(pre.dtype.element_ty), mask=mask)
    found = ACTIVATION(acc)
    if DROPS:
        zero = program * 0
        keep = random_bits(place, zero, zero, seed).to(tl.int64) >= threshold
        found *= tl.where(keep, scale, 0.0)
    tl.store(out + place, found.to(out.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Dropout:
    """As the kernels take it."""

    seed: int
    threshold: int
    scale: float


class TritonActivation:
    """The passes of one activation; `value(z)` and `chain(grad, saved)` are jitted functions."""

    def __init__(self, value: Any, chain: Any) -> None:
        self._value, self._chain = value, chain

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        keeps_pre: bool = False,
        dropout: Dropout | None = None,
    ) -> tuple[Tensor, Tensor]:
        """out, and pre, which is empty where it is not kept."""
        x, weight = x.contiguous(), weight.contiguous()
        bias = None if bias is None else bias.contiguous()
        outs, ins = weight.shape
        rows = math.prod(x.shape[:-1])
        out = linear_layer.out_like(x, weight)
        pre = torch.empty_like(out) if keeps_pre else out.new_empty(0)
        if out.numel():
            blocks = blocks_of(rows, outs, x.dtype)
            with on_device(x):
                forward_kernel[(triton.cdiv(rows, blocks.rows) * triton.cdiv(outs, blocks.outs),)](
                    x,
                    weight,
                    x if bias is None else bias,
                    out,
                    pre,
                    rows,
                    ins,
                    outs,
                    0 if dropout is None else dropout.seed,
                    0 if dropout is None else dropout.threshold,
                    1.0 if dropout is None else dropout.scale,
                    ACTIVATION=self._value,
                    HAS_BIAS=bias is not None,
                    KEEPS_PRE=keeps_pre,
                    DROPS=dropout is not None,
                    PRECISION=precision(x.dtype),
                    BLOCK_ROWS=blocks.rows,
                    BLOCK_OUTS=blocks.outs,
                    BLOCK_INS=blocks.ins,
                    GROUP=8,
                    num_warps=blocks.warps,
                    num_stages=blocks.stages,
                )
        return out, pre

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        weight: Tensor,
        saved: Tensor,
        wanted: list[bool],
        scale: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias, times `scale`; empty for each that is not wanted."""
        outs = weight.shape[0]
        grad = grad.reshape(math.prod(x.shape[:-1]), outs).contiguous()
        chained, grad_bias = chain(self._chain, grad, saved.contiguous(), wanted[2], scale)
        return linear_layer.library_gradients(chained, x, weight, grad_bias, wanted)


def from_out(value: Any, chain: Any) -> tuple[Callable, Callable]:
    """Forward and backward of an activation whose derivative follows from its output."""
    passes = TritonActivation(value, chain)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As reference.forward."""
        return passes.forward(x, weight, bias)[0]

    def backward(grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]):
        """As reference.backward."""
        return passes.backward(grad, x, weight, out, wanted)

    return forward, backward


def from_pre(value: Any, chain: Any) -> tuple[Callable, Callable]:
    """Forward and backward of an activation whose derivative needs what it was applied to."""
    passes = TritonActivation(value, chain)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, keeps_pre: bool):
        """As reference.forward."""
        return passes.forward(x, weight, bias, keeps_pre)

    def backward(grad: Tensor, x: Tensor, weight: Tensor, pre: Tensor, wanted: list[bool]):
        """As reference.backward."""
        return passes.backward(grad, x, weight, pre, wanted)

    return forward, backward
