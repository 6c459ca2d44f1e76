"""Which of the matched places are swapped: the seam between finding them and deciding about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from fastmodel.optimize.calls import Call
from fastmodel.optimize.evidence import Measurement, Verification


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
    x: torch.Tensor | None = None
    """The input itself, in its layout, a leaf that requires a gradient where the model asks for one; None
    where a rule or a function of the caller's decides."""
    call: Call | None = None
    """In the place of x, where values meet in a module's forward: what that is called with."""


@dataclass(frozen=True)
class Decision:
    """A strategy's word on one candidate; it goes into the plan."""

    is_accepted: bool
    reason: str
    measurement: Measurement | None = None
    """What was timed; None where a rule decided."""
    verification: Verification | None = None
    """What was held against float64; None where nothing was."""


Strategy = Callable[[Candidate], Decision]


def static(candidate: Candidate) -> Decision:
    """Accept every place that fits: a rule, without a measurement."""
    return Decision(True, "fits; chosen by rule, not measured")
