"""linear_relu_dropout in plain PyTorch: the definition, the oracle and the last fallback.

    out = relu(x @ weight.T + bias) * keep / (1 - p)

with x (..., I), weight (O, I), bias (O,) or None and out (..., O). keep[i] is 1 where random[i] >= p * 2^32,
i counting the elements of out row by row, random as `philox` has it.

Backward keeps x, weight and out, and needs no mask: an element of out is positive where it lives under the
ReLU and was kept. (NaN counts as alive, as in PyTorch's ReLU.)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LOW = 0xFFFFFFFF


def philox(seed: int, count: int) -> Tensor:
    """`count` random integers of 32 bits, as int64: Philox-4x32 with ten rounds, keyed by the seed.

    Block b, of four, has the counter (b, 0). Source: Salmon et al., "Parallel random numbers: as easy as
    1, 2, 3", 2011.
    """
    block = torch.arange((count + 3) // 4)
    a, b = block & _LOW, block >> 32
    c, d = torch.zeros_like(block), torch.zeros_like(block)
    key0, key1 = seed & _LOW, seed >> 32 & _LOW
    for _ in range(10):
        left_high, left_low = _product(a, 0xD2511F53)
        right_high, right_low = _product(c, 0xCD9E8D57)
        a, b, c, d = right_high ^ b ^ key0, right_low, left_high ^ d ^ key1, left_low
        key0, key1 = (key0 + 0x9E3779B9) & _LOW, (key1 + 0xBB67AE85) & _LOW
    return torch.stack([a, b, c, d], -1).flatten()[:count]


def _product(a: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * factor, in halves of 16 bits so that int64 holds them."""
    low, high = a * (factor & 0xFFFF), a * (factor >> 16)
    middle = (low >> 16) + high
    return middle >> 16, (middle << 16 | low & 0xFFFF) & _LOW


def scale_of(p: float) -> float:
    """What kept elements are multiplied by."""
    return 0.0 if p == 1.0 else 1.0 / (1.0 - p)


def threshold_of(p: float) -> int:
    """Of 2^32 random integers, how many drop their element."""
    return round(p * 2**32)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor, p: float) -> Tensor:
    """out = relu(x @ weight.T + bias) * keep / (1 - p)."""
    out = torch.relu(F.linear(x, weight, bias))
    if p == 0.0:
        return out
    keep = philox(int(seed), out.numel()) >= threshold_of(p)
    return out * (keep.to(out.device).reshape(out.shape) * scale_of(p)).to(out.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x, weight and bias; an empty tensor for each that `wanted` leaves out."""
    masked = torch.ops.aten.threshold_backward(grad, out, 0) * scale_of(p)
    rows = math.prod(x.shape[:-1])
    flat = masked.reshape(rows, weight.shape[0])
    unwanted = grad.new_empty
    return (
        masked @ weight if wanted[0] else unwanted(0),
        flat.T @ x.reshape(rows, weight.shape[1]) if wanted[1] else unwanted(0),
        flat.sum(0) if wanted[2] else unwanted(0),
    )
