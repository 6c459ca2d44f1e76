"""Named inputs of the norms."""

from __future__ import annotations

import math

import torch

from fastmodel.ops.case import Case, randn


def norm_cases(parameters: int, *, has_residual: bool) -> tuple[Case, ...]:
    """The cases of an op that takes x, [residual,] normalized_shape and `parameters` tensors."""

    def case(
        name: str,
        lead: tuple[int, ...],
        shape: tuple[int, ...],
        *,
        tensors: int = parameters,
        is_bench: bool = False,
    ) -> Case:
        """`tensors`: how many of the parameters are there, the rest are None."""

        def make(dtype):
            draw = _of_sixteenths if has_residual else randn
            leads = [draw(i, *lead, *shape, dtype=dtype) for i in range(1 + has_residual)]
            affine = [randn(2 + i, *shape, dtype=dtype) for i in range(tensors)]
            return *leads, shape, *affine, *[None] * (parameters - tensors)

        rows, row = math.prod(lead), math.prod(shape)
        return Case(
            name,
            make,
            # Sums over a row forward, over the rows for the parameters' gradients.
            depth=max(rows, row),
            # Sum, distance, square and its sum, product with rstd, weight and bias; the residual's addition.
            flops=(5 + parameters + has_residual) * rows * row,
            bytes_float32=4 * (rows * row * (2 + 2 * has_residual) + tensors * row),
            is_bench=is_bench,
        )

    return (
        case("one", (1,), (3,)),
        case("tiny", (3,), (5,)),
        case("vector", (), (7,)),
        case("two-dims", (2, 3), (4, 5)),
        case("no-parameters", (6,), (20,), tensors=0),
        case("weight-alone", (6,), (20,), tensors=1),
        # One less and one more than the vectors (16, 8, 4), four of them, and the rows at a time (4).
        case("edges-below", (3,), (15,)),
        case("edges-above", (5,), (17,)),
        case("vectors-below", (7,), (63,)),
        case("vectors-above", (9,), (65,)),
        case("row", (4,), (256,)),
        # Around what a thread takes for itself, and the rows whose sums wait together (256).
        case("two-threads", (70,), (1000,)),
        case("rows-above", (515,), (33,)),
        case("long-row", (2,), (4099,)),
        # Longer than GPU kernels hold at a time (16384 forward, 8192 backward).
        case("longest-row", (4,), (16387,)),
        case("empty-batch", (0,), (16,)),
        case("empty-row", (3,), (0,)),
        case("gpt-nano", (4096,), (128,), is_bench=True),
        case("512x256", (512,), (256,), is_bench=True),
        case("gpt2-small", (2048,), (768,), is_bench=True),
        case("8192x1024", (8192,), (1024,), is_bench=True),
        case("1024x4096", (1024,), (4096,), is_bench=True),
    )


def _of_sixteenths(seed: int, *shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal values on a grid so coarse that sums of two are exact in every dtype, bfloat16's 8 bits too."""
    values = randn(seed, *shape, dtype=torch.float64)
    return ((16 * values).round().clamp(-64, 64) / 16).to(dtype)
