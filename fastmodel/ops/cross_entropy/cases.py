"""Named inputs of cross_entropy: the arguments of `functional.cross_entropy`, in its order."""

from __future__ import annotations

import math

import torch

from fastmodel.ops.case import Case, randn

IGNORE = -100


def _case(
    name: str,
    *shape: int,
    is_probability: bool = False,
    has_weight: bool = False,
    ignored: float = 0.0,
    reduction: str = "mean",
    smoothing: float = 0.0,
    is_bench: bool = False,
) -> Case:
    """shape is the input's; `ignored` the share of rows whose class index is ignored."""
    classes = shape[0] if len(shape) == 1 else shape[1]
    row_shape = shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]

    def make(dtype):
        x = randn(0, *shape, dtype=dtype)
        if is_probability:
            target = randn(1, *shape, dtype=torch.float64).softmax(0 if len(shape) == 1 else 1)
            target = target.to(dtype)
        else:
            generator = torch.Generator().manual_seed(2)
            target = torch.randint(classes, row_shape, generator=generator)
            target[torch.rand(row_shape, generator=generator) < ignored] = IGNORE
        weight = (
            (1 + randn(3, classes, dtype=torch.float64).abs()).to(dtype) if has_weight else None
        )
        return x, target, weight, None, IGNORE, None, reduction, smoothing

    rows = math.prod(row_shape)
    return Case(
        name,
        make,
        depth=max(rows, classes),
        # Per logit: a comparison, a subtraction, about 16 for exp, an addition.
        flops=19 * rows * classes,
        bytes_float32=4 * rows * classes * (2 if is_probability else 1) + 8 * rows,
        is_bench=is_bench,
    )


CASES = (
    _case("one", 1, 1),
    _case("tiny", 3, 5),
    _case("vector", 7),
    _case("vector-probability", 7, is_probability=True, reduction="none"),
    # One less and one more than the vector width (16, 8, 4), and than the chunk of 4096.
    _case("15-classes-sum", 5, 15, reduction="sum"),
    _case("17-classes-none", 5, 17, reduction="none"),
    _case("chunk-below", 2, 4095),
    _case("chunk-above", 2, 4097, smoothing=0.1),
    _case("two-threads", 70, 1000, reduction="none", smoothing=0.1, has_weight=True),
    _case("weight", 9, 33, has_weight=True),
    _case("weight-sum-ignored", 9, 33, has_weight=True, reduction="sum", ignored=0.3),
    _case("ignored", 20, 10, ignored=0.5),
    _case("ignored-none", 20, 10, ignored=0.5, reduction="none"),
    _case("smoothing", 9, 33, smoothing=0.1),
    _case("smoothing-all", 9, 33, smoothing=1.0),
    _case("smoothing-weight-ignored", 20, 10, smoothing=0.2, has_weight=True, ignored=0.3),
    _case("probability", 6, 19, is_probability=True),
    _case("probability-weight", 6, 19, is_probability=True, has_weight=True, reduction="none"),
    _case("probability-smoothing", 6, 19, is_probability=True, smoothing=0.3, reduction="sum"),
    _case("probability-all", 6, 19, is_probability=True, smoothing=0.3, has_weight=True),
    _case("image", 2, 5, 3, 4, ignored=0.2, has_weight=True),
    _case("image-none", 2, 5, 3, 4, reduction="none", smoothing=0.1),
    _case("image-probability", 2, 5, 3, 4, is_probability=True, has_weight=True, smoothing=0.1),
    _case("sequence", 3, 17, 7),
    _case("empty-batch-sum", 0, 5, reduction="sum"),
    _case("empty-batch-none", 0, 5, reduction="none", smoothing=0.1),
    _case("empty-batch-mean", 0, 5),
    _case("empty-image", 2, 5, 0, reduction="none"),
    _case("empty-batch-probability", 0, 5, is_probability=True),
    _case("mnist", 64, 10, is_bench=True),
    _case("gpt2", 512, 50257, is_bench=True),
    _case("imagenet", 4096, 1000, is_bench=True),
)
