"""The parts of an arm's step: a few steps under torch.profiler, summed by operator class.

Every event counts its own time, without that of the events it called, towards the class of the outermost
classified event above it: the `addmm` inside an optimizer step is optimizer. What no class claims,
Python between the operators included, is "other", so the parts add up to the step. Under the profiler
a step takes longer than it does untouched: these times explain the paired figures, and are not them.
"""

from __future__ import annotations

import os
from collections import defaultdict

import torch

from fastmodel.harness.measure import Runner
from fastmodel.harness.profile.kinds import classify
from fastmodel.harness.records import StepPart

OTHER = "other"
_STEP = "fastmodel.profiled_step"
_DEVICE_IDLE = "launch and idle"


def step_parts(runner: Runner, steps: int = 5) -> list[StepPart]:
    """Profile `steps` steps of a warm `runner`; parts of the mean step, the longest first."""
    # Without this the profiler announces itself on standard error.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    on_cuda = torch.device(runner.loop.device).type == "cuda"
    activities = [torch.profiler.ProfilerActivity.CPU]
    if on_cuda:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(steps):
            with torch.profiler.record_function(_STEP):
                runner.run(1)
                if on_cuda:
                    torch.cuda.synchronize(runner.loop.device)
    events = profiler.events()
    roots = [event for event in events if event.cpu_parent is None]
    total_us = sum(event.cpu_time_total for event in events if event.name == _STEP)
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
