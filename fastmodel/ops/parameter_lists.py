"""Named lists of parameter shapes: what the optimizers' tests and benches step."""

from __future__ import annotations

import math

import torch

from fastmodel.ops.case import Case, randn

Shapes = tuple[tuple[int, ...], ...]

# A share of a kernel's work is at least 16,384 elements and begins at a multiple of 64.
_SHARE, _ALIGNMENT = 16_384, 64

TESTS: dict[str, Shapes] = {
    "scalar": ((),),
    "empty": ((0,), (3, 0, 2), (4,)),
    "vector-edges": tuple((n,) for n in (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33)),
    "ranks": ((2, 3, 3, 3), (5, 7), (5,), (), (1, 1)),
    "share-edges": ((_SHARE - 1,), (_ALIGNMENT + 1,), (_SHARE + 1,), (1,), (2 * _SHARE - 63,)),
}

BENCHES: dict[str, Shapes] = {
    "mnist-cnn": (
        (32, 1, 3, 3),
        (32,),
        (64, 32, 3, 3),
        (64,),
        (128, 1600),
        (128,),
        (10, 128),
        (10,),
    ),
    "25x1M": ((1_000_000,),) * 25,
    "500x1024": ((1024,),) * 500,
    "2000x64": ((64,),) * 2000,
}


def cases(bytes_a_parameter: int, flops_a_parameter: int) -> tuple[Case, ...]:
    """Every list as a Case whose `make(dtype)` gives (params, grads), and the bytes of one step."""

    def case(name: str, shapes: Shapes, is_bench: bool) -> Case:
        def make(dtype: torch.dtype):
            params = [
                torch.nn.Parameter(randn(i, *shape, dtype=dtype)) for i, shape in enumerate(shapes)
            ]
            grads = [randn(len(shapes) + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
            return params, grads

        count = sum(map(math.prod, shapes))
        return Case(
            name,
            make,
            depth=1,
            flops=flops_a_parameter * count,
            bytes_float32=bytes_a_parameter * count,
            is_bench=is_bench,
        )

    return (
        *(case(name, shapes, False) for name, shapes in TESTS.items()),
        *(case(name, shapes, True) for name, shapes in BENCHES.items()),
    )
