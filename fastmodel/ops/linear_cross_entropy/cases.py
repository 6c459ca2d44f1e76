"""Named inputs of linear_cross_entropy: x, weight, target, bias, class weights and options, by position."""

from __future__ import annotations

import math

import torch

from fastmodel.ops.case import Case, randn

IGNORE = -100


def _case(
    name: str,
    lead: tuple[int, ...],
    features: int,
    classes: int,
    *,
    has_bias: bool = False,
    has_class_weight: bool = False,
    ignored: float = 0.0,
    reduction: str = "mean",
    smoothing: float = 0.0,
    is_bench: bool = False,
) -> Case:
    """`ignored` is the share of rows whose class index is ignored."""

    def make(dtype):
        x = randn(0, *lead, features, dtype=dtype)
        weight = randn(1, classes, features, dtype=dtype, scale=1 / math.sqrt(max(features, 1)))
        bias = randn(2, classes, dtype=dtype) if has_bias else None
        generator = torch.Generator().manual_seed(3)
        target = torch.randint(classes, lead, generator=generator)
        target[torch.rand(lead, generator=generator) < ignored] = IGNORE
        class_weight = None
        if has_class_weight:
            class_weight = (1 + randn(4, classes, dtype=torch.float64).abs()).to(dtype)
        return x, weight, target, bias, class_weight, reduction, smoothing

    rows = math.prod(lead)
    return Case(
        name,
        make,
        depth=max(rows, features, classes),
        flops=2 * rows * features * classes,
        bytes_float32=4 * (rows * features + classes * features) + 8 * rows,
        is_bench=is_bench,
    )


CASES = (
    _case("one", (1,), 1, 1),
    _case("tiny", (3,), 4, 5),
    _case("vector", (), 8, 7, has_bias=True),
    _case("sequence", (2, 5), 6, 9, has_bias=True),
    # One less and one more than the vector width (16, 8, 4).
    _case("15-classes-sum", (5,), 7, 15, reduction="sum"),
    _case("17-classes-none", (5,), 7, 17, reduction="none", has_bias=True),
    _case("weight", (9,), 5, 33, has_class_weight=True),
    _case("weight-sum-ignored", (9,), 5, 33, has_class_weight=True, reduction="sum", ignored=0.3),
    _case("ignored", (20,), 6, 10, ignored=0.5, has_bias=True),
    _case("ignored-none", (20,), 6, 10, ignored=0.5, reduction="none"),
    _case("smoothing", (9,), 5, 33, smoothing=0.1),
    _case("smoothing-all", (20,), 6, 10, smoothing=0.2, has_class_weight=True, ignored=0.3),
    _case("none-all", (4, 5), 6, 10, smoothing=0.2, has_class_weight=True, reduction="none"),
    _case("empty-batch-sum", (0,), 4, 5, reduction="sum"),
    _case("empty-batch-none", (0,), 4, 5, reduction="none"),
    _case("empty-batch-mean", (0,), 4, 5),
    _case("empty-features", (3,), 0, 5),
    _case("nano", (4096,), 128, 256, is_bench=True),
    _case("wide", (4096,), 512, 256, is_bench=True),
    _case("gpt2-small", (1024,), 768, 50257, is_bench=True),
)
