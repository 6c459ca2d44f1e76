"""An arm's step under the profiler: its parts, and its operators against the roof."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastmodel.harness.measure import Runner
from fastmodel.harness.profile import operators, trace
from fastmodel.harness.profile.modelled import Look, why_no_look
from fastmodel.harness.profile.parts import STEP, step_parts
from fastmodel.harness.records import StepPart
from fastmodel.harness.roofline_records import Ceilings, OperatorRow

_MOST = 12
"""Operators that are kept; the rest takes next to no time."""
_Events = Sequence[torch.autograd.profiler_util.FunctionEvent]


@dataclass(frozen=True)
class ArmProfile:
    """What a few steps of one arm told."""

    parts: list[StepPart]
    operators: list[OperatorRow]
    why_no_operators: str


def profile(runner: Runner, ceilings: Ceilings | None, steps: int = 5) -> ArmProfile:
    """Profile `steps` steps of a warm `runner`, and look at the shapes of one more."""
    on_cuda = torch.device(runner.loop.device).type == "cuda"
    events = _profiled(runner, steps, on_cuda)
    parts = step_parts(events, steps, on_cuda)
    rows, reason = [], why_no_look()
    if reason is None:
        try:
            with Look() as look:
                runner.run(1)
        except Exception as error:  # whatever the model's author raises in a dispatch mode
            reason = f"no look at a step's shapes: {' '.join(str(error).split())[:200]}"
        else:
            rows = _rows(events, look, ceilings)
    return ArmProfile(parts, rows, reason or "")


def _profiled(runner: Runner, steps: int, on_cuda: bool) -> _Events:
    # Without this the profiler announces itself on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            with torch.profiler.record_function(STEP):
                runner.run(1)
                if on_cuda:
                    torch.cuda.synchronize(runner.loop.device)
    return profiler.events()


def _rows(events: _Events, look: Look, ceilings: Ceilings | None) -> list[OperatorRow]:
    found = trace.read(events, STEP)
    step_us = sum(end - start for start, end in found.steps) / len(found.steps)
    return operators.rows(found, look, ceilings, step_us / 1e6, _MOST)
