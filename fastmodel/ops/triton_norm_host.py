"""Host wrappers of the norms' Triton kernels: which kernel takes a row, and how it is launched."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from fastmodel.ops.norm import row_count, row_size
from fastmodel.ops.triton_host import on_device
from fastmodel.ops.triton_norm import (
    backward_kernel,
    backward_long_kernel,
    forward_kernel,
    forward_long_kernel,
    sum_partials_kernel,
)

LONGEST_FORWARD = 16384
"""Values of a row in registers: 32 a thread of 16 warps."""
LONGEST_BACKWARD = 8192
"""Likewise 16 a thread, as backward holds the gradient, hat and two sums of each."""
SWEEP = 4096
"""Values of a longer row at a time: 16 bytes a thread of 16 warps in bfloat16."""
TILE = 2048
"""Values of a program that takes several short rows: 16 a thread of 4 warps."""
PARTIALS_TILE = (32, 32)
"""Programs and columns that one program sums at a time."""
_GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def promotes_to_a_gpu_dtype(x: Tensor, residual: Tensor, *_) -> str | None:
    """The kernels of a residual norm take what promotes to float32, bfloat16 or float16."""
    dtype = torch.promote_types(x.dtype, residual.dtype)
    return None if dtype in _GPU_DTYPES else f"x and residual promote to {dtype}"


def tile_of(n: int) -> dict[str, int]:
    """Rows and columns of a program, and its warps: 16 values a thread, up to 16 warps."""
    block = triton.next_power_of_2(n)
    rows = max(1, TILE // max(block, 128))
    return {"ROWS": rows, "BLOCK": block, "num_warps": min(max(rows * block // 512, 1), 16)}


def programs_of(x: Tensor, tiles: int, warps: int) -> int:
    """Programs that share the rows of backward: what fits on the device at a time."""
    if not x.is_cuda:
        return min(tiles, 3)  # interpreted: enough that each takes several turns
    at_once = torch.cuda.get_device_properties(x.device).multi_processor_count * max(1, 16 // warps)
    return min(tiles, at_once)


@dataclass(frozen=True)
class TritonNorm:
    """The passes of one norm."""

    is_centred: bool

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
        rows, n = row_count(x, dims), row_size(x, dims)
        dtype = x.dtype if residual is None else torch.promote_types(x.dtype, residual.dtype)
        x = x.contiguous()
        out = torch.empty_like(x, dtype=dtype)
        total = x if residual is None else torch.empty_like(out)
        stats = x.new_empty((1 + self.is_centred, rows), dtype=torch.float32)
        if x.numel() == 0:
            return out, total, stats.fill_(torch.nan)
        arguments = {
            "x": x,
            "residual": x if residual is None else residual.contiguous(),
            "total": total,
            "weight": x if weight is None else weight.contiguous(),
            "bias": x if bias is None else bias.contiguous(),
            "out": out,
            "stats": stats,
            "rows": rows,
            "n": n,
            "eps": eps,
            "IS_CENTRED": self.is_centred,
            "HAS_RESIDUAL": residual is not None,
            "HAS_WEIGHT": weight is not None,
            "HAS_BIAS": bias is not None,
        }
        with on_device(x):
            if n <= LONGEST_FORWARD:
                tile = tile_of(n)
                forward_kernel[(triton.cdiv(rows, tile["ROWS"]),)](**arguments, **tile)
            else:
                forward_long_kernel[(rows,)](**arguments, BLOCK=SWEEP, num_warps=8)
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
        wanted: list[bool],
    ) -> tuple[Tensor, ...]:
        """Gradients of x, weight and bias, as many as there are in wanted; empty for each not wanted."""
        rows, n = row_count(x, dims), row_size(x, dims)
        own = (x, weight, bias)[: len(wanted)]
        gradients = [
            torch.empty_like(tensor, memory_format=torch.contiguous_format)
            if want and tensor is not None
            else x.new_empty(0)
            for tensor, want in zip(own, wanted, strict=True)
        ]
        if x.numel() == 0:
            return tuple(gradient.zero_() for gradient in gradients)
        row_arguments = {
            "grad": grad.contiguous(),
            "x": x.contiguous(),
            "stats": stats.contiguous(),
            "rows": rows,
            "n": n,
            "IS_CENTRED": self.is_centred,
        }
        x_arguments = {
            "grad_sum": grad if grad_sum is None else grad_sum.contiguous(),
            "weight": x if weight is None else weight.contiguous(),
            "grad_x": gradients[0],
            "HAS_GRAD_SUM": grad_sum is not None,
            "HAS_WEIGHT": weight is not None,
        }
        sums = {"WANTS_WEIGHT": wanted[1], "WANTS_BIAS": wanted[-1] and len(wanted) == 3}
        with on_device(x):
            partials = _run_backward(x, row_arguments, x_arguments, {**sums, "WANTS_X": wanted[0]})
            if any(sums.values()):
                _sum_partials(partials, gradients, sums)
        return tuple(gradients)


def _run_backward(x: Tensor, row_arguments: dict, x_arguments: dict, options: dict) -> Tensor:
    """Write grad_x; the partials (2, programs, n) of the parameters' gradients."""
    rows, n = row_arguments["rows"], row_arguments["n"]
    if n <= LONGEST_BACKWARD:
        tile = tile_of(n)
        kernel, parts, tiles = backward_kernel, 1, triton.cdiv(rows, tile["ROWS"])
    else:
        tile = {"SWEEP": SWEEP, "BLOCK": LONGEST_BACKWARD, "num_warps": 16}
        kernel, parts, tiles = backward_long_kernel, triton.cdiv(n, LONGEST_BACKWARD), rows
    programs = max(1, programs_of(x, tiles * parts, tile["num_warps"]) // parts)
    partials = x.new_empty((2, programs, n), dtype=torch.float32)
    grid = (programs,) if parts == 1 else (parts, programs)
    kernel[grid](**row_arguments, **x_arguments, **options, **tile, partials=partials)
    return partials


def _sum_partials(partials: Tensor, gradients: list[Tensor], sums: dict) -> None:
    """Write the parameters' gradients."""
    _, programs, n = partials.shape
    rows, block = PARTIALS_TILE
    sum_partials_kernel[(triton.cdiv(n, block),)](
        *partials, gradients[1], gradients[-1], programs, n, **sums, ROWS=rows, BLOCK=block
    )
