"""What this machine reaches at most, measured once a session.

Arithmetic: multiply-adds on registers alone, and what PyTorch's libraries make of it in a large product and a
large convolution. Memory: a large copy, and an update in place, which is spared the read of what is about to
be overwritten. The ceiling is whichever is highest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fastmodel import env
from fastmodel.ops import native
from fastmodel.timing import now_s

_GEMM, _COPY = 2048, 64 * 2**20
_CONV_X, _CONV_WEIGHT = (16, 256, 14, 14), (256, 256, 3, 3)
_FMA_ITERATIONS = 10_000_000
_ROUNDS = 7


@dataclass(frozen=True)
class Ceilings:
    """The best of a few rounds, float32, on PyTorch's number of threads."""

    fma_gflop_per_s: float | None
    """Registers alone, in the CPU capability in use; None without the extension."""
    conv_gflop_per_s: float
    """oneDNN through PyTorch: 16 x 256 x 14 x 14, 256 filters of 3 x 3, channels_last."""
    gemm_gflop_per_s: float
    """PyTorch's product of two 2048 x 2048 matrices."""
    copy_gb_per_s: float
    """256 MiB; read and write counted."""
    update_gb_per_s: float
    """y += x over 256 MiB each; two reads and a write counted."""

    @property
    def gflop_per_s(self) -> float:
        """Of arithmetic."""
        return max(self.fma_gflop_per_s or 0, self.conv_gflop_per_s, self.gemm_gflop_per_s)

    @property
    def gb_per_s(self) -> float:
        """Of memory."""
        return max(self.copy_gb_per_s, self.update_gb_per_s)


def measure() -> Ceilings:
    """Two seconds on two cores."""
    a, b = torch.randn(2, _GEMM, _GEMM)
    product = torch.empty_like(a)
    source = torch.ones(_COPY)
    target = torch.zeros_like(source)
    gemm_s = _best_s(lambda: torch.mm(a, b, out=product))
    copy_s = _best_s(lambda: target.copy_(source))
    update_s = _best_s(lambda: target.add_(source))
    return Ceilings(
        fma_gflop_per_s=_fma_gflop_per_s(),
        conv_gflop_per_s=_conv_gflop_per_s(),
        gemm_gflop_per_s=2 * _GEMM**3 / gemm_s / 1e9,
        copy_gb_per_s=2 * 4 * _COPY / copy_s / 1e9,
        update_gb_per_s=3 * 4 * _COPY / update_s / 1e9,
    )


def _fma_gflop_per_s() -> float | None:
    if env.native_missing():
        return None
    loop = env.native().fma_loop_cpu
    flops = loop(1, native.threads()) * _FMA_ITERATIONS
    return flops / _best_s(lambda: loop(_FMA_ITERATIONS, native.threads())) / 1e9


@torch.no_grad()
def _conv_gflop_per_s() -> float:
    x = torch.randn(_CONV_X).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(_CONV_WEIGHT).contiguous(memory_format=torch.channels_last)
    terms = weight[0].numel()
    conv_s = _best_s(lambda: F.conv2d(x, weight, padding=1))
    return 2 * terms * x.numel() / conv_s / 1e9  # as many outputs as inputs


def _best_s(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_ROUNDS):
        start_s = now_s()
        call()
        times.append(now_s() - start_s)
    return min(times)
