"""The operators of the active steps: time from the trace, work from the look at one step."""

from __future__ import annotations

from collections import defaultdict

import torch

from fastmodel.harness.profile.ceilings import attainable_gflop_per_s
from fastmodel.harness.profile.kinds import classify
from fastmodel.harness.profile.modelled import Look, Work
from fastmodel.harness.profile.trace import Event, Trace, does_no_work, walk
from fastmodel.harness.records import StepPart
from fastmodel.harness.roofline_records import Ceilings, OperatorRow

OTHER, OUTSIDE = "other operators", "outside operators"


def kinds(trace: Trace, step_s: float) -> list[StepPart]:
    """The step by what was computed, the longest first; what is no operator's is "outside operators".

    Each event counts its own time towards the kind of the outermost event above it that has one: an `addmm`
    inside an optimizer's step is optimizer. On a CUDA device the time is that of the kernels launched.
    """
    times_us: dict[str, float] = defaultdict(float)
    main = trace.main_thread
    stack: list[tuple[Event, str | None]] = [
        (root, None) for root in trace.roots if root.thread == main or trace.has_device
    ]
    while stack:
        event, inherited = stack.pop()
        kind = inherited or classify(event.name)
        own_us = event.device_us if trace.has_device else _own_us(event)
        times_us[kind or OTHER] += own_us
        stack += [(child, kind) for child in event.children]
    steps = len(trace.steps)
    found = {name: time_us / steps / 1e6 for name, time_us in times_us.items() if time_us > 0}
    found[OUTSIDE] = max(0.0, step_s - sum(found.values()))
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return [StepPart(name, time_s, time_s / step_s) for name, time_s in ordered]


def rows(
    trace: Trace, look: Look | None, ceilings: Ceilings | None, step_s: float, most: int = 30
) -> list[OperatorRow]:
    """The operators that took longest, the first first, each with what it calls inside itself."""
    work = look.work if look is not None else {}
    times_us: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def visit(event: Event) -> bool:
        is_one = event.name in work if work else not does_no_work(event.name)
        if not is_one:
            return True
        times_us[event.name] += _device_us(event) if trace.has_device else event.time_us
        calls[event.name] += 1
        return False

    walk(trace.roots, visit)
    steps = len(trace.steps)
    longest = sorted(times_us, key=lambda name: -times_us[name])[:most]
    return [
        _row(
            name,
            times_us[name] / steps / 1e6,
            calls[name] / steps,
            work.get(name),
            ceilings,
            step_s,
        )
        for name in longest
    ]


def main_dtype(look: Look | None) -> torch.dtype:
    """The element type that most arguments of the operators with FLOPs had; float32 where unknown."""
    counts: dict[str, int] = defaultdict(int)
    for work in look.work.values() if look is not None else ():
        for name, count in work.dtypes.items():
            counts[name] += count * work.has_flops
    name = max(counts, key=lambda key: counts[key], default="float32")
    return getattr(torch, name)


def _row(
    name: str,
    time_s: float,
    calls: float,
    work: Work | None,
    ceilings: Ceilings | None,
    step_s: float,
) -> OperatorRow:
    missing: dict[str, str] = {}
    flops = moved = intensity = share = None
    if work is None:
        missing = dict.fromkeys(("flops", "modelled_bytes"), "no look at this operator's shapes")
    else:
        moved = float(work.bytes)
        if work.has_flops:
            flops = float(work.flops)
        else:
            missing["flops"] = "no formula is known for this operator"
    if flops is not None and moved:
        intensity = flops / moved
        if ceilings is not None and time_s > 0:
            achieved = flops / time_s / 1e9
            share = achieved / attainable_gflop_per_s(ceilings, intensity)
    elif moved and ceilings is not None and time_s > 0:
        # Without FLOPs the memory is the only roof.
        share = moved / time_s / 1e9 / ceilings.copy_gb_per_s
    if share is None:
        reason = "it moves no data" if moved == 0 else "no ceilings were measured"
        missing["roofline_share"] = missing.get("modelled_bytes", reason)
    return OperatorRow(
        name=name,
        kind=classify(name) or OTHER,
        calls=calls,
        time_s=time_s,
        share=time_s / step_s,
        flops=flops,
        modelled_bytes=moved,
        gflop_per_s=None if flops is None or time_s <= 0 else flops / time_s / 1e9,
        modelled_gb_per_s=None if moved is None or time_s <= 0 else moved / time_s / 1e9,
        flop_per_byte=intensity,
        roofline_share=share,
        missing=missing,
    )


def _own_us(event: Event) -> float:
    return event.time_us - sum(child.time_us for child in event.children)


def _device_us(event: Event) -> float:
    return event.device_us + sum(_device_us(child) for child in event.children)
