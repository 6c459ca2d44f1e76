"""Rounding to bfloat16 at random, as csrc/adam/stochastic_rounding.h does it, in plain PyTorch.

What bfloat16 cuts off float32 are 16 bits. Adding 16 uniform random bits before the cut rounds up with
probability (cut part) / 2^16: the mean over the random bits is the value. They come from Philox4x32-7, a
counter-based generator (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011;
seven rounds are the fewest that pass all of TestU01's BigCrush).
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_ROUNDS = 7


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: int) -> list[Tensor]:
    """Four words of 32 random bits, as int64, of counters of four words each."""
    c0, c1, c2, c3 = counter
    k0, k1 = key & _MASK, key >> 32 & _MASK
    for _ in range(_ROUNDS):
        # The product wraps in 64 bits; its halves are right as unsigned numbers.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            p1 >> 32 & _MASK ^ c1 ^ k0,
            p1 & _MASK,
            p0 >> 32 & _MASK ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = k0 + 0x9E3779B9 & _MASK, k1 + 0xBB67AE85 & _MASK
    return [c0, c1, c2, c3]


def random_bits(like: Tensor, ordinal: int, step: int, seed: int) -> Tensor:
    """32 random bits, as int64, for each element of the parameter `like`, by its place in memory.

    Args:
        like: a parameter.
        ordinal: its place among all of its optimizer.
        step: its step count.
        seed: `torch.initial_seed()`.
    """
    place = torch.arange(like.numel())
    counter = place // 64 * 16 + place % 16
    words = philox(
        (
            counter & _MASK,
            counter >> 32,
            torch.full_like(place, ordinal),
            torch.full_like(place, step),
        ),
        seed,
    )
    flat = torch.stack(words).gather(0, (place % 64 // 16)[None])[0]
    bits = torch.empty_like(like, dtype=torch.int64, device="cpu")
    bits.as_strided((like.numel(),), (1,)).copy_(flat)
    return bits.to(like.device)


def round_(target: Tensor, value: Tensor, bits: Tensor) -> None:
    """Write `value` into the bfloat16 `target`, rounded by `bits`, uniform below 2^16; NaN stays NaN."""
    wide = value.float().contiguous().view(torch.int32).to(torch.int64) & _MASK
    cut = (wide + bits >> 16 << 16) & _MASK
    signed = torch.where(cut >= 1 << 31, cut - (1 << 32), cut).to(torch.int32)
    target.copy_(torch.where(value.isnan(), torch.nan, signed.view(torch.float32)))
