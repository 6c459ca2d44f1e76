"""Named inputs of linear_relu_dropout, with the dropout left out: no two generators draw one mask."""

from __future__ import annotations

import math

from fastmodel.ops.case import Case, randn


def _case(
    name: str,
    lead: tuple[int, ...],
    ins: int,
    outs: int,
    *,
    has_bias: bool = True,
    is_bench: bool = False,
) -> Case:
    def make(dtype):
        x = randn(0, *lead, ins, dtype=dtype)
        weight = randn(1, outs, ins, dtype=dtype, scale=1 / math.sqrt(max(ins, 1)))
        bias = randn(2, outs, dtype=dtype) if has_bias else None
        return x, weight, bias, 0.0

    rows = math.prod(lead)
    return Case(
        name,
        make,
        depth=max(ins, rows),
        flops=2 * rows * ins * outs,
        bytes_float32=4 * (rows * ins + outs * ins + rows * outs + outs),
        is_bench=is_bench,
    )


CASES = (
    _case("one", (1,), 1, 1),
    _case("tiny-no-bias", (2,), 3, 5, has_bias=False),
    _case("vector", (), 20, 7),
    _case("3d", (3, 5), 33, 17),
    # One less and one more than the vector width (16, 8, 4) and the register tiles (4 or 6 rows).
    _case("edges-below", (7,), 63, 15),
    _case("edges-above", (5,), 65, 17),
    _case("wide-panel", (9,), 193, 13),
    _case("empty-batch", (0,), 16, 8),
    _case("empty-features", (3,), 0, 4),
    _case("mnist-fc1", (64,), 1600, 128, is_bench=True),
    _case("mnist-fc1-512", (512,), 1600, 128, is_bench=True),
    _case("mlp-1024", (128,), 1024, 1024, is_bench=True),
)
