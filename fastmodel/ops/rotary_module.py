"""Tables of cosines and sines, and q and k turned by them: what the rotary modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastmodel.errors import InputError

M = TypeVar("M", bound="Rotary")


class Rotary(nn.Module):
    """q and k turned by the angle of their position; the tables are no part of the state_dict."""

    _turn: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """The op, a static method."""
    _in_pairs: Callable[[Tensor], Tensor]
    """(T, D / 2) to (T, D): each angle at both places of its pair; a static method."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, positions: int, base: float = 10000.0, device=None) -> None:
        super().__init__()
        if width % 2:
            raise InputError(f"{type(self).__name__}: width {width} is odd; pass an even one")
        # On the CPU for any device, so that all have the same tables.
        speeds = base ** (-torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width)
        self._make_tables(speeds, positions, 1.0, device)

    def _make_tables(self, speeds: Tensor, positions: int, scale: float, device) -> None:
        steps = torch.arange(positions, dtype=torch.float64, device=speeds.device)
        angles = type(self)._in_pairs(torch.outer(steps, speeds))
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            table = (scale * table).to(torch.float32).to(device)
            self.register_buffer(name, table, persistent=False)

    def forward(self, q: Tensor, k: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """q (B, H, T, D) and k (B, G, T, D), whose first position is `first`, turned."""
        last = first + q.shape[-2]
        if first < 0 or last > self.cos.shape[0]:
            raise InputError(
                f"{type(self).__name__}: positions {first} to {last - 1} are asked for, the tables have "
                f"0 to {self.cos.shape[0] - 1}; make it with more positions"
            )
        return self._turn(q, k, self.cos[first:last], self.sin[first:last])

    @classmethod
    def from_torch(cls: type[M], rotary: nn.Module, positions: int | None = None) -> M:
        """The module with the speeds of a rotary module of Hugging Face's: its `inv_freq` and scaling.

        Args:
            rotary: has a buffer `inv_freq` of (D / 2,).
            positions: how many; None for its `max_seq_len_cached`.
        """
        source: Any = rotary
        speeds = source.inv_freq.detach().double()
        made = cls(2 * speeds.numel(), 0)
        count = source.max_seq_len_cached if positions is None else positions
        scale = float(getattr(source, "attention_scaling", 1.0))
        made._make_tables(speeds, count, scale, speeds.device)
        return made.train(rotary.training)
