"""Which of the matched places are swapped: the seam between finding them and deciding about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Candidate:
    """A place where a fused module fits: all that a strategy needs to try it."""

    site: str
    pattern: str
    plain: nn.Sequential
    """The modules as they are, over the model's own Parameters; not to be changed."""
    fused: nn.Module
    """The same computation by the fused module, over the same Parameters; not to be changed."""
    shape: tuple[int, ...] | None
    """Shape of the input on the example inputs; None where they do not reach the place."""
    dtype: torch.dtype | None
    device: torch.device | None


@dataclass(frozen=True)
class Decision:
    """A strategy's word on one candidate; it goes into the plan."""

    is_accepted: bool
    reason: str
    figures: tuple[tuple[str, float], ...] = ()
    """The measurements behind it, the unit in each name; empty where a rule decided."""


Strategy = Callable[[Candidate], Decision]


def static(candidate: Candidate) -> Decision:
    """Accept every place that fits: a rule, without a measurement."""
    return Decision(True, "fits; chosen by rule, not measured")
