"""Where the fused kernels of linear_relu win, for automatic choice.

Bounds: float32 against the library row, 2 cores with AVX-512 (AMD EPYC 9005),
benchmarks/results/epyc-2core/linear_relu.json: forward 1.5x at 64 rows of 1600 to 128 features, 1.4x at
128 rows of 1024 to 1024, 0.92x to 1.07x at 512 rows in several runs; backward 2.1x, 1.9x and 2x.
"""

from __future__ import annotations

MOST_FORWARD_ROWS, MOST_BACKWARD_ROWS = 256, 512
MOST_WEIGHT_ELEMENTS = 1024 * 1024


def forward(x, weight, bias):
    """None where the fused forward is the faster one, else the reason."""
    return _small(x, weight, MOST_FORWARD_ROWS)


def backward(grad, x, weight, out, wanted):
    """None where the fused backward is the faster one, else the reason."""
    return _small(x, weight, MOST_BACKWARD_ROWS)


def _small(x, weight, most_rows: int) -> str | None:
    if weight.numel() > MOST_WEIGHT_ELEMENTS:
        return "the weight is larger than any that was measured to win"
    if x.numel() > most_rows * weight.shape[1]:
        return "many rows: blocking over them pays"
    return None
