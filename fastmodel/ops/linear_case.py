"""Named inputs of the ops of a linear layer."""

from __future__ import annotations

import functools
import math

from fastmodel.ops.case import Case, randn


def linear_case(
    options: tuple,
    name: str,
    lead: tuple[int, ...],
    ins: int,
    outs: int,
    *,
    has_bias: bool = True,
    is_bench: bool = False,
) -> Case:
    """One case of an op that takes x (*lead, ins), weight (outs, ins), bias and then `options`."""

    def make(dtype):
        x = randn(0, *lead, ins, dtype=dtype)
        weight = randn(1, outs, ins, dtype=dtype, scale=1 / math.sqrt(max(ins, 1)))
        bias = randn(2, outs, dtype=dtype) if has_bias else None
        return x, weight, bias, *options

    rows = math.prod(lead)
    return Case(
        name,
        make,
        depth=max(ins, rows),
        flops=2 * rows * ins * outs,
        bytes_float32=4 * (rows * ins + outs * ins + rows * outs + outs),
        is_bench=is_bench,
    )


def linear_cases(*options) -> tuple[Case, ...]:
    """The cases of an op that takes x, weight, bias and then `options`."""
    case = functools.partial(linear_case, options)
    return (
        case("one", (1,), 1, 1),
        case("tiny-no-bias", (2,), 3, 5, has_bias=False),
        case("vector", (), 20, 7),
        case("3d", (3, 5), 33, 17),
        # One less and one more than the vector width (16, 8, 4) and the register tiles (4 or 6 rows).
        case("edges-below", (7,), 63, 15),
        case("edges-above", (5,), 65, 17),
        case("wide-panel", (9,), 193, 13),
        # More rows than dot products take, around the weight's pack (96, 384 or 768 of in_features by 64, 16
        # or 8 outputs) and past the rows whose sums wait together (512).
        case("pack-below", (21,), 95, 63),
        case("pack-above", (23,), 97, 81),
        case("pack-deep", (22,), 769, 3),
        case("many-rows", (514,), 17, 3),
        # Rows from which the weight's gradient is made in stretches (1,024), of 96, 384 or 768 rows each, and
        # past the outputs whose sums wait together (512).
        case("blocked-below", (1023,), 65, 5),
        case("blocked-above", (1025,), 67, 5),
        case("blocked-outs", (1024,), 3, 515),
        case("empty-batch", (0,), 16, 8),
        case("empty-features", (3,), 0, 4),
        case("mnist-fc1", (64,), 1600, 128, is_bench=True),
        case("mnist-fc1-512", (512,), 1600, 128, is_bench=True),
        case("mlp-1024", (128,), 1024, 1024, is_bench=True),
    )
