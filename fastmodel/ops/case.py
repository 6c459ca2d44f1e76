"""A named input of an op: what tests, benches and documentation run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One named input of an op.

    `make(dtype)` returns the op's arguments, tensors drawn from a fixed seed with about unit variance
    and weights scaled so that outputs have about unit variance too.
    """

    name: str
    make: Callable[[torch.dtype], tuple[Any, ...]]
    depth: int
    """Terms in the longest sum of the forward pass; tolerances grow with its square root."""
    flops: int
    """Forward multiply-adds, counted as two each."""
    bytes_float32: int
    """Bytes that a float32 forward must at least move: inputs once, outputs once."""
    is_bench: bool = False
    """Large enough to be worth timing; tests leave it out."""

    def __str__(self) -> str:
        return self.name


def tolerance(dtype: torch.dtype, depth: int) -> dict[str, float]:
    """rtol and atol for a result of unit scale against float64.

    The stored result is rounded once to its dtype (rtol, with a factor 2 for the comparison's own
    rounding). Kernels accumulate in float32 (float64 for float64): a sum of `depth` terms whose partial
    sums stay near unit scale gathers a rounding error of about eps * sqrt(depth); 8 of those deviations
    leave no false alarm over millions of elements, and a wrong term (about 1 / sqrt(depth)) stays orders
    of magnitude above it.
    """
    accumulate = torch.float64 if dtype == torch.float64 else torch.float32
    atol = 8 * torch.finfo(accumulate).eps * math.sqrt(max(depth, 1))
    return {"rtol": 2 * torch.finfo(dtype).eps, "atol": atol}


def randn(seed: int, *shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Normal values that are the same for every dtype up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)
