"""Where a step's time goes: a few steps under torch.profiler, summed by operator class.

Every event counts its own time, without that of the events it called, towards the class of the outermost
classified event above it: the `addmm` inside an optimizer step is optimizer. What no class claims,
Python between the operators included, is "other", so the parts add up to the step. Under the profiler
a step takes longer than it does untouched: these times explain the paired figures, and are not them.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict

import torch

from fastmodel.harness.measure import Runner
from fastmodel.harness.records import StepPart

OTHER = "other"
_STEP = "fastmodel.profiled_step"
_DEVICE_IDLE = "launch and idle"

# Tried in order against the event's name in lower case; the first match is its class. Fused ops stand
# before the plain ones whose names they contain.
_CLASSES: tuple[tuple[str, str], ...] = (
    (r"^optimizer\.zero_grad", "optimizer"),
    (r"^optimizer\.step|accumulategrad", "optimizer"),
    (r"conv_?relu_?max_?pool", "conv+ReLU+pool"),
    (r"conv_?relu", "conv+ReLU"),
    (r"linear_?relu", "linear+ReLU"),
    (r"cross_?entropy|nll_?loss|log_?softmax|mse_loss|loss", "loss"),
    (r"conv", "conv"),
    (r"pool", "pool"),
    (r"relu|gelu|silu|sigmoid|tanh|clamp_min|threshold", "activation"),
    (r"dropout|bernoulli", "dropout"),
    (r"batch_?norm|layer_?norm|group_?norm", "norm"),
    (r"linear|addmm|\bmm\b|mmbackward|matmul|\bbmm\b", "linear"),
    (r"^aten::(index|index_select|randperm)$", "batches"),
)
_BACKWARD = re.compile(r"backward")
_ONE_PASS = ("optimizer", "batches")


def profile(runner: Runner, steps: int = 5) -> list[StepPart]:
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


def classify(name: str) -> str | None:
    """The operator class of an event's name, "conv backward" for instance; None if it has none."""
    lower = name.lower()
    for pattern, label in _CLASSES:
        if re.search(pattern, lower):
            if label in _ONE_PASS:
                return label
            return f"{label} {'backward' if _BACKWARD.search(lower) else 'forward'}"
    return None


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
