"""The parts of an arm's step: a few steps under torch.profiler, summed by operator class.

Every event counts its own time, without that of the events it called, towards the class of the outermost
classified event above it: the `addmm` inside an optimizer step is optimizer. What no class claims,
Python between the operators included, is "other", so the parts add up to the step. Under the profiler
a step takes longer than it does untouched: these times explain the paired figures, and are not them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from fastmodel.harness.profile.kinds import classify
from fastmodel.harness.records import StepPart

STEP = "fastmodel.profiled_step"
"""The range around each step."""
OTHER = "other"
_DEVICE_IDLE = "launch and idle"


def step_parts(
    events: Sequence[torch.autograd.profiler_util.FunctionEvent], steps: int, on_cuda: bool
) -> list[StepPart]:
    """Parts of the mean of the `steps` steps that these events are from, the longest first."""
    roots = [event for event in events if event.cpu_parent is None]
    total_us = sum(event.cpu_time_total for event in events if event.name == STEP)
    times_us: dict[str, float] = defaultdict(float)
    for root in roots:
        _add(root, None, times_us, "self_device_time_total" if on_cuda else "self_cpu_time_total")
    if on_cuda:
        times_us[_DEVICE_IDLE] = max(0.0, total_us - sum(times_us.values()))
    return _parts(times_us, steps)


def _add(
    event: torch.autograd.profiler_util.FunctionEvent,
    inherited: str | None,
    times_us: dict[str, float],
    clock: str,
) -> None:
    label = inherited or classify(event.name)
    times_us[label or OTHER] += getattr(event, clock)
    for child in event.cpu_children:
        _add(child, label, times_us, clock)


def _parts(times_us: dict[str, float], steps: int) -> list[StepPart]:
    total_us = sum(times_us.values())
    if total_us <= 0:
        return []
    longest_first = sorted(times_us.items(), key=lambda item: -item[1])
    return [
        StepPart(name, time_us / steps / 1e6, time_us / total_us)
        for name, time_us in longest_first
        if time_us > 0
    ]
