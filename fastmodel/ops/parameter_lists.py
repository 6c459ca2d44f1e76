"""Named lists of parameter shapes: what the optimizers' tests and benches step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

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


def _resnet50() -> Iterator[tuple[int, ...]]:
    """Parameters of ResNet-50 (He et al. 2015): convolutions without bias, batch norms, one linear layer."""

    def convolution(inputs: int, outputs: int, kernel: int) -> Iterator[tuple[int, ...]]:
        yield (outputs, inputs, kernel, kernel)
        yield from ((outputs,), (outputs,))  # its batch norm

    yield from convolution(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            yield from convolution(inputs, width, 1)
            yield from convolution(width, width, 3)
            yield from convolution(width, 4 * width, 1)
            if block == 0:
                yield from convolution(inputs, 4 * width, 1)
            inputs = 4 * width
    yield from ((1000, inputs), (1000,))


def _gpt2(width: int, layers: int, context: int, words: int) -> Iterator[tuple[int, ...]]:
    """Parameters of GPT-2 (Radford et al. 2019); the output shares the word embedding."""
    norm = ((width,), (width,))
    yield from ((words, width), (context, width))
    for _ in range(layers):
        yield from (*norm, (width, 3 * width), (3 * width,), (width, width), (width,))
        yield from (*norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,))
    yield from norm


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
    "resnet50": tuple(_resnet50()),
    "gpt2-small": tuple(_gpt2(768, 12, 1024, 50_257)),
}


@dataclass(frozen=True)
class OptimizerCase(Case):
    """A list of parameters, and the options that its optimizer is made with."""

    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A case of its own for every large list of parameters."""

    suffix: str
    options: dict[str, Any]
    bytes_a_parameter: int
    flops_a_parameter: int


def cases(*variants: Variant) -> tuple[OptimizerCase, ...]:
    """Every list as a case whose `make(dtype)` gives (params, grads), and the bytes of one step.

    Args:
        variants: of the benches; tests take the first, and choose options by themselves.
    """

    def case(name: str, shapes: Shapes, variant: Variant, is_bench: bool) -> OptimizerCase:
        def make(dtype: torch.dtype):
            params = [
                torch.nn.Parameter(randn(i, *shape, dtype=dtype)) for i, shape in enumerate(shapes)
            ]
            grads = [randn(len(shapes) + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]
            return params, grads

        count = sum(map(math.prod, shapes))
        return OptimizerCase(
            name + variant.suffix,
            make,
            depth=1,
            flops=variant.flops_a_parameter * count,
            bytes_float32=variant.bytes_a_parameter * count,
            is_bench=is_bench,
            options=variant.options,
        )

    return (
        *(case(name, shapes, variants[0], False) for name, shapes in TESTS.items()),
        *(
            case(name, shapes, variant, True)
            for name, shapes in BENCHES.items()
            for variant in variants
        ),
    )
