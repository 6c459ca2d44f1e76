"""mse_loss in Triton.

    forward   term = (x - target)^2; reads 8 bytes an element in float32, and writes 4 for reduction "none"
    backward  grad_x = 2 (x - target) grad, over the number of elements for "mean"; grad_target = -grad_x;
              reads 8 (12 for "none") and writes 4 for each

Memory bounds every pass: 3 FLOPs an element, far below what a GPU computes while 8 bytes come in. A scalar
loss is summed in a fixed order: each program sums a share of the blocks, one more launch sums their sums.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.mse_loss.native_kernel import laid_out, laid_out_backward
from fastmodel.ops.mse_loss.reference import MEAN, NONE
from fastmodel.ops.triton_host import MOST_PARTIALS, on_device, sum_rows

BLOCK = 1024


@triton.jit
def terms_kernel(x, target, out, size, BLOCK: tl.constexpr):
    """out = (x - target)^2."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    difference = _difference(x, target, at, at < size)
    tl.store(out + at, (difference * difference).to(out.dtype.element_ty), mask=at < size)


@triton.jit
def partial_sums_kernel(x, target, partials, size, BLOCK: tl.constexpr):
    """partials[program] = sum of (x - target)^2 over every block whose turn it is."""
    program = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(program * BLOCK, size, tl.num_programs(0) * BLOCK):
        at = start + tl.arange(0, BLOCK)
        difference = _difference(x, target, at, at < size)
        total += difference * difference
    tl.store(partials + program, tl.sum(total))


@triton.jit
def backward_kernel(
    grad,
    x,
    target,
    grad_x,
    grad_target,
    size,
    factor,
    HAS_TERMS: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_x = factor (x - target) grad, grad_target = -grad_x; grad is one value unless HAS_TERMS."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    incoming = tl.load(grad + at, mask=mask) if HAS_TERMS else tl.load(grad)
    found = _difference(x, target, at, mask) * (factor * incoming.to(tl.float32))
    if WANTS_X:
        tl.store(grad_x + at, found.to(grad_x.dtype.element_ty), mask=mask)
    if WANTS_TARGET:
        tl.store(grad_target + at, (-found).to(grad_target.dtype.element_ty), mask=mask)


@triton.jit
def _difference(x, target, at, mask):
    x_block = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    return x_block - tl.load(target + at, mask=mask, other=0.0).to(tl.float32)


def forward(x: Tensor, target: Tensor, reduction: int) -> Tensor:
    """As reference.forward."""
    x, target = laid_out(x, target)
    size = x.numel()
    blocks = triton.cdiv(size, BLOCK)
    with on_device(x):
        if reduction == NONE:
            out = torch.empty_like(x)
            if size:
                terms_kernel[(blocks,)](x, target, out, size, BLOCK=BLOCK)
            return out
        programs = max(1, min(blocks, MOST_PARTIALS))
        partials = x.new_empty((1, programs), dtype=torch.float32)
        partial_sums_kernel[(programs,)](x, target, partials, size, BLOCK=BLOCK)
    return sum_rows(partials, x.new_empty(()), _per_term(size, reduction))


def backward(
    grad: Tensor, x: Tensor, target: Tensor, reduction: int, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """As reference.backward."""
    grad, x, target, grad_x, grad_target = laid_out_backward(grad, x, target, reduction, wanted)
    size = x.numel()
    if size and any(wanted):
        with on_device(x):
            backward_kernel[(triton.cdiv(size, BLOCK),)](
                grad,
                x,
                target,
                grad_x,
                grad_target,
                size,
                2 * _per_term(size, reduction),
                HAS_TERMS=reduction == NONE,
                WANTS_X=wanted[0],
                WANTS_TARGET=wanted[1],
                BLOCK=BLOCK,
            )
    return grad_x, grad_target


def _per_term(size: int, reduction: int) -> float:
    """What a term counts; the mean of none is NaN."""
    if reduction != MEAN:
        return 1.0
    return 1.0 / size if size else float("nan")
