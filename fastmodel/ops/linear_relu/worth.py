"""Where the fused kernels of linear_relu win, for automatic choice.

The bounds are set from measurements at float32 against the library row.
"""

from __future__ import annotations

MOST_ROWS = 128
MOST_WEIGHT_ELEMENTS = 512 * 1024


def forward(x, weight, bias):
    """None where the fused forward is the faster one, else the reason."""
    return _small(x, weight)


def backward(grad, x, weight, out, wanted):
    """None where the fused backward is the faster one, else the reason."""
    return _small(x, weight)


def _small(x, weight):
    if weight.numel() > MOST_WEIGHT_ELEMENTS:
        return "the weight is too large for the cache"
    if x.numel() > MOST_ROWS * weight.shape[1]:
        return "many rows: blocking over them pays"
    return None
