"""From what the phases found to the report."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field, replace

import numpy as np
import psutil
import torch

from fastmodel.harness.environment import environment
from fastmodel.harness.profile import advice as advising
from fastmodel.harness.profile import candidates, ceilings, operators
from fastmodel.harness.profile.chains import chains
from fastmodel.harness.profile.classes import classes, partition
from fastmodel.harness.profile.modelled import Look
from fastmodel.harness.profile.phases import Findings
from fastmodel.harness.profile.trace import OPTIMIZER, Event, Trace, spans
from fastmodel.harness.profile_records import (
    PROFILE_SCHEMA_VERSION,
    Phases,
    ProfileReport,
    StepTime,
    SyncPoint,
)
from fastmodel.harness.records import StepPart
from fastmodel.harness.telemetry_records import Telemetry

NEVER_STEPPED = (
    "no optimizer stepped, so there is no step to look at; a loop that updates its weights by other means"
    " can be profiled from within: `with fm.profile() as p: ... p.step()`"
)
_CROWDED = 0.15
"""Share of the machine's CPU time in others' hands from which the figures are called into question."""
_OUTLIER = 5.0
"""An active step of this many times the median is remarked on."""


@dataclass(frozen=True)
class Inputs:
    """What a session gathered."""

    found: Findings
    steps_seen: int
    boundary: str
    optimizers: list[torch.optim.Optimizer]
    loaders: list[torch.utils.data.DataLoader]
    telemetry: Telemetry | None
    started_at: str
    duration_s: float
    command: list[str]
    exit_code: int | None
    has_trials: bool
    wants_trace: bool
    incomplete_reason: str | None


@dataclass
class _Draft:
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def report(inputs: Inputs) -> ProfileReport:
    """The report of what there is; the rest is None with the reason."""
    found = inputs.found
    draft = _Draft(notes=list(found.notes))
    reason = inputs.incomplete_reason
    if reason is None and not inputs.steps_seen:
        reason = NEVER_STEPPED
    if reason is None and found.trace is None and inputs.wants_trace:
        reason = f"the run ended after {inputs.steps_seen} steps, before the profiler's turn"
    trace, look = found.trace, found.look
    device = _device(found)
    step_time = _step_time(found)
    if step_time is None:
        draft.missing["step_time"] = reason or "no timed steps were asked for"
    parts: list[StepPart] = []
    step_s = limits = None
    if trace is None or not trace.steps:
        for name in ("classes", "kinds", "operators", "advice", "profiled_step_s"):
            draft.missing[name] = reason or "no active steps were asked for"
    else:
        step_s = found.active_s / len(trace.steps)
        parts = _classes(trace, found)
        limits = ceilings.measure(device, operators.main_dtype(look))
        draft.notes += _remarks(trace)
    draft.notes += _crowding(inputs.telemetry)
    if look is None:
        draft.missing["modelled"] = found.missing.get("modelled", reason or "no look was asked for")
    sync_points = _sync_points(look, trace, step_s, step_time)
    made, estimate = [], None
    if trace is not None and trace.steps and step_s is not None:
        facts = _facts(inputs, trace, sync_points, step_time, step_s, draft)
        made = advising.advice(facts)
        estimate = advising.together(made, facts.step_s)
        draft.missing |= facts.missing
        if trace.has_device:
            draft.notes.append("no kernel of fastmodel runs on this device: PyTorch's own serve it")
    return ProfileReport(
        schema_version=PROFILE_SCHEMA_VERSION,
        complete=reason is None,
        incomplete_reason=reason,
        started_at=inputs.started_at,
        duration_s=inputs.duration_s,
        command=inputs.command,
        exit_code=inputs.exit_code,
        environment=environment(),
        device=str(device),
        phases=_phases(found),
        steps_seen=inputs.steps_seen,
        step_boundary=inputs.boundary,
        step_time=step_time,
        profiled_step_s=step_s,
        classes=parts,
        kinds=[] if trace is None or step_s is None else operators.kinds(trace, _traced_s(trace)),
        operators=[]
        if trace is None or step_s is None
        else operators.rows(trace, look, limits, _traced_s(trace)),
        ceilings=limits,
        sync_points=sync_points,
        advice=made,
        estimate=estimate,
        telemetry=inputs.telemetry,
        trace_file=None if found.trace_file is None else found.trace_file.name,
        trace_bytes=None if found.trace_file is None else found.trace_file.stat().st_size,
        notes=draft.notes,
        missing=draft.missing,
    )


def with_exit_code(made: ProfileReport, exit_code: int, reason: str | None) -> ProfileReport:
    """The same report once the script has ended."""
    if reason is None:
        return replace(made, exit_code=exit_code)
    return replace(made, exit_code=exit_code, notes=[*made.notes, reason])


def _traced_s(trace: Trace) -> float:
    low, high = trace.window
    return (high - low) / len(trace.steps) / 1e6


def _classes(trace: Trace, found: Findings) -> list[StepPart]:
    totals_us = partition(trace.window, spans(trace))
    by_class = classes(totals_us, found.asleep_s * 1e6, trace.has_device)
    steps, total_us = len(trace.steps), sum(by_class.values())
    return [
        StepPart(name, time_us / steps / 1e6, time_us / total_us)
        for name, time_us in by_class.items()
    ]


def _remarks(trace: Trace) -> list[str]:
    """What makes the active steps unlike others."""
    times_us = [end - start for start, end in trace.steps]
    median_us = statistics.median(times_us)
    long = [i + 1 for i, time_us in enumerate(times_us) if time_us > _OUTLIER * median_us]
    if not long:
        return []
    listed = ", ".join(map(str, long))
    return [
        f"active step {listed} took over {_OUTLIER:g} times the median: an evaluation or the start of an"
        " epoch, perhaps; it is in the classes"
    ]


def _crowding(telemetry: Telemetry | None) -> list[str]:
    """Did other programs hold the CPUs?"""
    series = {} if telemetry is None else {one.name: one.mean for one in telemetry.series}
    machine, own = series.get("machine_cpu_percent"), series.get("process_cpu_cores")
    if machine is None or own is None:
        return []
    own += series.get("children_cpu_cores") or 0.0
    others = machine / 100 - own / (psutil.cpu_count() or 1)
    if others < _CROWDED:
        return []
    return [
        f"other programs took {others:.0%} of this machine's CPU time meanwhile: times are longer than on"
        " a quiet machine, and shares are off"
    ]


def _step_time(found: Findings) -> StepTime | None:
    if not found.times_s:
        return None
    low, median, high = np.quantile(found.times_s, [0.05, 0.5, 0.95])
    count = len(found.times_s)
    return StepTime(float(median), float(low), float(high), count, found.loader_s / count)


def _phases(found: Findings) -> Phases:
    done = dict(found.done)
    profiled = done.pop("active", 0)
    active = 0 if found.trace is None else len(found.trace.steps)
    return Phases(**done, active=active, warmup=profiled - active)


def _facts(
    inputs: Inputs,
    trace: Trace,
    sync_points: list[SyncPoint],
    step_time: StepTime | None,
    step_s: float,
    draft: _Draft,
) -> advising.Facts:
    sites, missing = candidates.sites(inputs.found.roots)
    for name, reason in missing.items():
        draft.missing[f"sites of {name}"] = reason
    control_s = inputs.found.control_s
    return advising.Facts(
        step_s=step_s if step_time is None else step_time.median_s,
        trace=trace,
        chains=chains(trace),
        sites=sites,
        optimizers=inputs.optimizers,
        roots=inputs.found.roots,
        losses=inputs.found.losses,
        sync_points=sync_points,
        loader_s=0.0 if step_time is None else step_time.loader_s,
        control_s=statistics.median(control_s) if control_s else None,
        loaders=inputs.loaders,
        has_trials=inputs.has_trials,
    )


def _sync_points(
    look: Look | None, trace: Trace | None, step_s: float | None, step_time: StepTime | None
) -> list[SyncPoint]:
    """The lines that wait, the one that waits longest first; time is shared among lines of one operator."""
    if look is None:
        return []
    times_s = _waits(look, trace)
    scale = 1.0
    if step_s and step_time is not None:
        scale = min(1.0, step_time.median_s / step_s)
    found = []
    for line, calls in look.lines.items():
        time_s = times_s.get(line.operator)
        found.append(
            SyncPoint(
                where=line.where,
                operator=line.operator,
                code=line.code,
                calls=calls,
                time_s=None if time_s is None else time_s * calls * scale,
                missing={} if time_s is not None else {"time_s": "not seen by the profiler"},
            )
        )
    return sorted(found, key=lambda point: -(point.time_s or 0.0))


def _waits(look: Look, trace: Trace | None) -> dict[str, float]:
    """Mean seconds of one call by operator, outside the optimizer."""
    if trace is None:
        return {}
    times_us: dict[str, list[float]] = {}
    wanted = {line.operator for line in look.lines}
    for event in trace.events:
        if event.name in wanted and not _is_optimizers(event):
            times_us.setdefault(event.name, []).append(event.time_us)
    return {name: statistics.fmean(times) / 1e6 for name, times in times_us.items()}


def _is_optimizers(event: Event) -> bool:
    parent = event.parent
    while parent is not None:
        if parent.name == OPTIMIZER:
            return True
        parent = parent.parent
    return False


def _device(found: Findings) -> torch.device:
    for root in found.roots:
        return next(root.model.parameters()).device
    return torch.device("cpu")
