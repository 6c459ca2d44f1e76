"""What this machine reaches at most, measured once a session: a large product and a large copy."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastmodel.timing import now_s

_GEMM, _COPY = 2048, 64 * 2**20
_ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    """PyTorch's best of a few rounds, float32."""

    gemm_gflop_per_s: float
    copy_gb_per_s: float
    """Read and write counted."""


def measure() -> Ceilings:
    """Half a second on two cores."""
    a, b = torch.randn(2, _GEMM, _GEMM)
    product = torch.empty_like(a)
    source = torch.ones(_COPY)
    target = torch.zeros_like(source)
    gemm_s = _best_s(lambda: torch.mm(a, b, out=product))
    copy_s = _best_s(lambda: target.copy_(source))
    return Ceilings(2 * _GEMM**3 / gemm_s / 1e9, 2 * 4 * _COPY / copy_s / 1e9)


def _best_s(call) -> float:
    times = []
    for _ in range(_ROUNDS):
        start_s = now_s()
        call()
        times.append(now_s() - start_s)
    return min(times)
