"""What the advice is drawn from, and how a piece of it is put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fastmodel.harness.profile.candidates import Site
from fastmodel.harness.profile.chains import Chain
from fastmodel.harness.profile.losses import LossCall
from fastmodel.harness.profile.phases import RootCall
from fastmodel.harness.profile.trace import Trace
from fastmodel.harness.profile_records import Advice, SyncPoint

FASTMODEL = "fastmodel"
"""What the names of the advice begin with that fastmodel itself carries out."""


@dataclass(frozen=True)
class Facts:
    """What the advice is drawn from."""

    step_s: float
    """Without the profiler."""
    trace: Trace
    chains: list[Chain]
    sites: list[Site]
    optimizers: list[torch.optim.Optimizer]
    roots: list[RootCall]
    sync_points: list[SyncPoint]
    loader_s: float
    control_s: float | None
    loaders: Sequence[torch.utils.data.DataLoader] = ()
    losses: Sequence[LossCall] = ()
    """That the script called in the look."""
    has_trials: bool = True
    missing: dict[str, str] = field(default_factory=dict)
    """Filled with why a trial could not be made."""

    @property
    def profiled_us(self) -> float:
        low, high = self.trace.window
        return (high - low) / len(self.trace.steps)

    def scaled_s(self, time_us: float) -> float:
        """Time within the profiled steps, all together, as seconds of one step without the profiler."""
        return time_us / len(self.trace.steps) / self.profiled_us * self.step_s


def make(
    facts: Facts,
    name: str,
    title: str,
    *,
    gain_s: float,
    target: str,
    action: str,
    how: str,
    evidence: str,
    where: Sequence[str] = (),
    includes: Sequence[str] = (),
) -> Advice:
    """A piece of advice that saves `gain_s` of a step, or nearly all of it."""
    gain_s = min(gain_s, 0.99 * facts.step_s)
    return Advice(
        name=name,
        title=title,
        action=action,
        target=target,
        where=list(where),
        gain_s=gain_s,
        gain_share=gain_s / facts.step_s,
        speedup=facts.step_s / (facts.step_s - gain_s),
        how=how,
        evidence=evidence,
        includes=list(includes),
    )


def share(facts: Facts, time_us: float) -> str:
    """Of the profiled steps, in per cent."""
    return f"{time_us / len(facts.trace.steps) / facts.profiled_us:.1%}"


def ms(time_s: float) -> str:
    """Seconds as milliseconds."""
    return f"{time_s * 1e3:.3g} ms"
