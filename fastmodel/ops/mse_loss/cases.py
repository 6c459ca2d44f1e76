"""Named inputs of mse_loss: the arguments of `functional.mse_loss`, in its order."""

from __future__ import annotations

import math

from fastmodel.ops.case import Case, randn


def _case(name: str, *shape: int, reduction: str = "mean", is_bench: bool = False) -> Case:
    def make(dtype):
        return randn(0, *shape, dtype=dtype), randn(1, *shape, dtype=dtype), None, None, reduction

    size = math.prod(shape)
    return Case(
        name,
        make,
        depth=size,
        flops=3 * size,
        bytes_float32=4 * size * (3 if reduction == "none" else 2),
        is_bench=is_bench,
    )


CASES = (
    _case("scalar"),
    _case("one", 1, reduction="sum"),
    _case("tiny", 3, 5),
    # One less and one more than the vectors (16, 8, 4), four of them, and the chunk of 4096.
    _case("15-none", 15, reduction="none"),
    _case("17-sum", 17, reduction="sum"),
    _case("63", 63),
    _case("65", 65),
    _case("chunk-below", 5, 819),
    _case("chunk-above-none", 17, 241, reduction="none"),
    _case("chunk-above-sum", 17, 241, reduction="sum"),
    _case("two-threads", 3, 22000),
    _case("image", 2, 3, 5, 4),
    _case("empty-sum", 0, 5, reduction="sum"),
    _case("empty-none", 0, 5, reduction="none"),
    _case("empty-mean", 0, 5),
    _case("head", 64, 10, is_bench=True),
    _case("features", 512, 1024, is_bench=True),
    _case("images", 64, 3, 224, 224, is_bench=True),
)
