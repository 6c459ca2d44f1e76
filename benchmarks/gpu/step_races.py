"""Races of whole training steps: the harness's own arms on the device, in windows of steps."""

from __future__ import annotations

import gc
from collections.abc import Callable

import measure
from measure import AUTO, Ceilings, Goal, Race, judge
from measure import Arm as TimedArm
from records import Line

from fastmodel import timing
from fastmodel.harness.measure import Runner
from fastmodel.harness.workloads import Options, registry
from fastmodel.harness.workloads.arms import Arm, default_arms

_WINDOW_S = 0.15
_ROUNDS = 8
_WARM_STEPS = 12
"""Past what is warmed up and captured."""


def seed_step(limits: Ceilings, budget_s: float) -> Line:
    """The seed's CNN on MNIST, batch 64."""
    options = Options(batch_size=64, device=measure.DEVICE)
    goals = (Goal("ratio to eager", 8.0), Goal("ratio to the best compiled or graphed", 1.5))
    return race("mnist-cnn", options, goals, limits, budget_s)


def gpt_step(limits: Ceilings, budget_s: float) -> Line:
    """GPT-2 small, sequences of 1,024, batch 8, autocast to bfloat16; ours holds no cheap activations.

    Raises:
        LookupError: there is no such workload here.
    """
    if "gpt-small" not in registry.WORKLOADS:
        raise LookupError("there is no workload gpt-small here")
    options = Options(batch_size=8, device=measure.DEVICE, autocast="bfloat16", recomputes=True)
    goals = (
        Goal("ratio to eager", 1.25),
        Goal("ratio to compile", 1.05),
        Goal("peak memory to eager's", 0.8, is_most=True),
    )
    return race("gpt-small", options, goals, limits, budget_s)


def race(
    name: str, options: Options, goals: tuple[Goal, ...], limits: Ceilings, budget_s: float
) -> Line:
    """Every arm of a workload, as many of them as the budget lets build."""
    deadline_s = timing.now_s() + budget_s
    line = Line(name, f"batch {options.batch_size}")
    workload = registry.make(name, options)
    runners: dict[str, Runner] = {}
    peaks: dict[str, int] = {}
    # Ours and the plain ones first: compiling takes the longest, and may take too long.
    arms = default_arms(workload, True, options.device, options.recomputes)
    order = sorted(arms, key=lambda arm: arm.is_isolated)
    for arm in order:
        if timing.now_s() > deadline_s - budget_s / 4:
            line.left_out[arm.name] = "no time left to build it"
            continue
        try:
            runners[arm.name], peaks[arm.name] = _warm(arm, workload, options)
        except RuntimeError as error:
            line.left_out[arm.name] = " ".join(str(error).split())[:200]
    ours = next(arm.name for arm in order if arm.is_optimized)
    reason = getattr(runners[ours].loop.step, "reason", None)
    line.figures["steps replayed as a graph"] = float(reason is None)
    if reason is not None:
        line.left_out["fm.capture_step"] = reason
    line.peak_bytes = {AUTO if name == ours else name: peak for name, peak in peaks.items()}
    times_ms = _windows(runners, ours)
    arms = {
        (AUTO if name == ours else name): TimedArm(_nothing, list, name == ours) for name in runners
    }
    named = {(AUTO if name == ours else name): times for name, times in times_ms.items()}
    judge(Race(line, arms), arms, named, limits)
    graphed = [n for n in named if n.startswith("compile") or n == "cuda-graph"]
    if graphed:
        best_ms = min(line.median_ms[n] for n in graphed)
        line.figures["ratio to the best compiled or graphed"] = best_ms / line.median_ms[AUTO]
    if line.peak_bytes.get("eager"):
        share = line.peak_bytes[AUTO] / line.peak_bytes["eager"]
        line.figures["peak memory to eager's"] = share
    line.goals = [goal.judged(line.figures) for goal in goals]
    runners.clear()
    gc.collect()
    return line


def _warm(arm: Arm, workload, options: Options) -> tuple[Runner, int]:
    """The arm, captured or compiled, and the most memory that it took since before it was built."""
    runners = []

    def build() -> None:
        runner = Runner(arm, workload, options)
        runner.run(_WARM_STEPS)
        runners.append(runner)

    peak_bytes = measure.peak_bytes(build)
    return runners[0], peak_bytes


def _windows(runners: dict[str, Runner], ours: str) -> dict[str, list[float]]:
    """Milliseconds a step of each arm, round by round."""
    start_s = timing.now_s(measure.DEVICE)
    runners[ours].run(_WARM_STEPS)
    step_s = (timing.now_s(measure.DEVICE) - start_s) / _WARM_STEPS
    steps = max(1, min(200, round(_WINDOW_S / step_s)))
    windows: dict[str, Callable[[], None]] = {
        name: lambda runner=runner: runner.run(steps) for name, runner in runners.items()
    }
    samples = list(timing.interleave(windows, _ROUNDS, measure.DEVICE))
    return {
        name: [1e3 * sample.time_s / steps for sample in samples if sample.arm == name]
        for name in runners
    }


def _nothing() -> None:
    pass
