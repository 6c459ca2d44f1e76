"""Where the kernels of linear win, for automatic choice: PyTorch's products are those of Intel's MKL.

MKL keeps to AVX2 on other makers' CPUs. On 2 cores of an EPYC 9005 its product reaches 208 GFLOP/s at every
size, ours 400 to 500 (benchmarks/results/epyc-2core/linear.json). On Intel's own nothing was measured, so
there the product stays PyTorch's; so do those of bfloat16, for which the CPU has instructions that ours does
not use.
"""

from __future__ import annotations

import torch

from fastmodel.ops import linear_layer

LEAST_FLOPS = 8_000_000
"""Of the product. Below, calling from Python is what takes the time."""
MOST_WEIGHT_ELEMENTS = 4 * 1024 * 1024
"""Of a layer of 1,024 to 4,096; larger ones were not measured."""


def of_size(rows: int, ins: int, outs: int, dtype: torch.dtype) -> str | None:
    """None where our product is the faster one on this machine, else the reason."""
    if dtype != torch.float32:
        return "PyTorch's product in low precision has instructions of its own"
    if not linear_layer.is_library_held_back():
        return "PyTorch's product is at home on this CPU"
    if 2 * rows * ins * outs < LEAST_FLOPS:
        return "small: calling from Python is what takes the time"
    if ins * outs > MOST_WEIGHT_ELEMENTS:
        return "the weight is larger than any that was measured to win"
    return None


def forward(x, weight, bias):
    """None where our forward is the faster one, else the reason."""
    outs, ins = weight.shape
    return of_size(x.numel() // max(ins, 1), ins, outs, x.dtype)


def backward(grad, x, weight, wanted):
    """None where our backward is the faster one, else the reason."""
    return forward(x, weight, None)
