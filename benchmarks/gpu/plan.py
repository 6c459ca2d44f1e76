"""What `make gpu` does, part by part, and how its time is shared out. Pure: nothing here touches a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BUDGET_S = 480.0
"""For all of it."""


@dataclass(frozen=True)
class Step:
    """One part."""

    name: str
    title: str
    share_s: float
    """Its share of the budget. What parts before it leave over is shared out among those that are left."""
    is_needed: bool = False
    """Does the run end where it fails?"""


STEPS = (
    Step("build", "build _C and _cuda against this interpreter", 110, is_needed=True),
    Step("tests", "the ops, optimizers and captured steps on the GPU", 60),
    Step("sanitizer", "compute-sanitizer: memcheck and racecheck over a few kernels", 30),
    Step("losses", "cross_entropy, mse_loss", 30),
    Step("optimizers", "AdamW over long and short lists, and the mixed-precision step", 35),
    Step("convolutions", "conv_relu and conv_relu_maxpool", 70),
    Step("linears", "the linear layers with an activation", 20),
    Step("norms", "layer_norm, rms_norm, swiglu, rope", 40),
    Step("heads", "linear_cross_entropy", 12),
    Step("seed-step", "the seed's training step", 45),
    Step("gpt-step", "GPT-2 small's training step", 28),
)
BENCHES = tuple(step.name for step in STEPS[3:])


def chosen(names: Sequence[str]) -> list[Step]:
    """The steps of these names, in their order; all where there are none.

    Raises:
        ValueError: a name is unknown.
    """
    known = [step.name for step in STEPS]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown part {name!r}; known are {', '.join(known)}")
    return [step for step in STEPS if not names or step.name in names]


def limit_s(step: Step, rest: Sequence[Step], left_s: float) -> float:
    """How long `step` may take, with `rest` still to come and `left_s` seconds left.

    Its part of what is left, by shares: time saved goes to those that come, time lost is theirs too.
    """
    shares_s = step.share_s + sum(other.share_s for other in rest)
    return min(max(0.0, left_s), max(0.0, left_s) * step.share_s / shares_s)
