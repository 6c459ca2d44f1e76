"""What the host wrappers of Triton kernels share: the device, precision of products, sums of partial sums."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.triton_interpreter import mend

if triton.knobs.runtime.interpret:
    mend()

MOST_PARTIALS = 1024
"""Programs of a reduction's first pass, at most: several a multiprocessor, few enough to sum in one go."""


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager:
    """Make the device of a tensor current, as launches need it."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies: float32 in full, unless PyTorch's matmul may take TF32."""
    if dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32":
        return "tf32"
    return "ieee"


def is_interpreted(kernel) -> bool:
    """Does the kernel run in Triton's interpreter, on the CPU?"""
    return not isinstance(kernel, triton.JITFunction)


@triton.jit
def sum_kernel(partials, out, count, factor, BLOCK: tl.constexpr):
    """out[i] = factor * sum of row i of partials (rows, count), one program a row."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partials + row * count + at, mask=at < count, other=0.0)
    tl.store(out + row, (factor * tl.sum(total)).to(out.dtype.element_ty))


def sum_rows(partials: Tensor, out: Tensor, factor: float = 1.0) -> Tensor:
    """out (rows) = factor * the sum of each row of partials (rows, count), float32 and contiguous."""
    with on_device(partials):
        sum_kernel[(partials.shape[0],)](
            partials, out, partials.shape[1], float(factor), BLOCK=MOST_PARTIALS
        )
    return out
