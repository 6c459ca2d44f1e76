"""The gradient behind an elementwise activation in Triton, and the bias's, in one pass.

    chained = scale * chain(grad, saved)        all (rows, channels)
    grad_bias = sum over rows of chained        (channels,)

It reads two elements and writes one for about 5 FLOPs: memory-bound, 6 bytes an element in bfloat16, 12 in
float32. grad_bias is summed in a fixed order: each program sums a share of the rows, one more launch those.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.triton_host import on_device, sum_rows

BLOCK_ROWS, BLOCK_CHANNELS = 32, 64
_MOST_PROGRAMS = 256
"""Along rows: enough for every multiprocessor, few enough partial sums."""


@triton.jit
def chain_kernel(
    grad,
    saved,
    chained,
    partials,
    rows,
    channels,
    scale,
    CHAIN: tl.constexpr,
    WANTS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """chained = scale * CHAIN(grad, saved); partials[channel, program] = its sum over the program's rows."""
    program, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    column = tl.program_id(1).to(tl.int64) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(program * BLOCK_ROWS, rows, programs * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        mask = (row < rows)[:, None] & (column < channels)[None, :]
        place = row[:, None] * channels + column[None, :]
        incoming = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
        kept = tl.load(saved + place, mask=mask, other=0.0).to(tl.float32)
        found = scale * CHAIN(incoming, kept)
        tl.store(chained + place, found.to(chained.dtype.element_ty), mask=mask)
        total += tl.where(mask, found, 0.0)
    if WANTS_BIAS:
        tl.store(partials + column * programs + program, tl.sum(total, 0), mask=column < channels)


def programs_along(rows: int) -> int:
    """Programs that share the rows."""
    return max(1, min(triton.cdiv(rows, BLOCK_ROWS), _MOST_PROGRAMS))


def chain(
    function: Any, grad: Tensor, saved: Tensor, wants_bias: bool, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """chained and grad_bias, empty where it is not wanted.

    Args:
        function: jitted, of grad and saved.
        grad: (rows, channels), contiguous.
        saved: of grad's size and order in memory.
        wants_bias: is grad_bias wanted?
        scale: a factor.
    """
    rows, channels = grad.shape
    chained = torch.empty_like(grad)
    programs = programs_along(rows)
    partials = grad.new_empty((channels if wants_bias else 0, programs), dtype=torch.float32)
    grad_bias = grad.new_empty(channels if wants_bias else 0)
    if channels:
        with on_device(grad):
            chain_kernel[(programs, triton.cdiv(channels, BLOCK_CHANNELS))](
                grad,
                saved,
                chained,
                partials,
                rows,
                channels,
                scale,
                CHAIN=function,
                WANTS_BIAS=wants_bias,
                BLOCK_ROWS=BLOCK_ROWS,
                BLOCK_CHANNELS=BLOCK_CHANNELS,
            )
        if wants_bias:
            sum_rows(partials, grad_bias)
    return chained, grad_bias
