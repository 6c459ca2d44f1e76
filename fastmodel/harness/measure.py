"""Paired timing of the arms, in three phases over windows of a fixed number of steps.

1. calibration: all baseline arms in turns; the fastest is the baseline that fastmodel must beat.
2. paired: that baseline and the optimized arm, ABBA, on fresh windows, so that the choice made in
   phase 1 does not flatter anyone. The ratios come from here.
3. noise: the baseline against a second build of itself. The interval of that A/A run says which
   differences this machine cannot see.

Each phase starts from fresh weights; its arms meet the same batches in the same order and keep
training throughout, so that all have come equally far when they are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastmodel.harness.records import Interval, Speedup, Window
from fastmodel.harness.workloads.arms import Arm, Loop
from fastmodel.harness.workloads.protocol import Options, Workload, endless_batches
from fastmodel.timing import (
    Estimate,
    Sample,
    bootstrap_interval,
    interleave,
    mean_ratio,
    now_s,
    paired_ratios,
)

AGAIN = " (again)"
"""Suffix of the second build of the baseline in the A/A run."""


@dataclass(frozen=True)
class Timing:
    """How long and how often to time."""

    pairs: int = 8
    calibration_rounds: int = 4
    window_time_s: float = 0.75
    warmup_steps: int = 10


class Runner:
    """One arm ready to be timed: its loop and its endless batches."""

    def __init__(self, arm: Arm, workload: Workload, options: Options) -> None:
        self.arm = arm
        self.loop: Loop = arm.build(workload, options)
        self._device = options.device
        split = self.loop.place(workload.train)
        self._batches = endless_batches(split, options.batch_size, options.seed)

    def run(self, steps: int) -> None:
        """Train `steps` steps; batch selection is part of the work."""
        for _ in range(steps):
            self.loop.step(*next(self._batches))

    def time_of(self, steps: int) -> float:
        """Seconds that `steps` steps take."""
        start_s = now_s(self._device)
        self.run(steps)
        return now_s(self._device) - start_s


def steps_per_window(runner: Runner, timing: Timing) -> int:
    """As many steps as `runner`, once warm, does in the wanted time; at least 1."""
    step_time_s = runner.time_of(timing.warmup_steps) / timing.warmup_steps
    return max(1, round(timing.window_time_s / step_time_s))


def windows(
    runners: Mapping[str, Runner], phase: str, rounds: int, steps: int, options: Options
) -> Iterator[Window]:
    """Interleaved windows of `steps` steps, as they end."""
    arms = {name: (lambda runner=runner: runner.run(steps)) for name, runner in runners.items()}
    for sample in interleave(arms, rounds, options.device):
        yield Window(
            arm=sample.arm,
            pair=sample.pair,
            position=sample.position,
            steps=steps,
            samples=steps * options.batch_size,
            time_s=sample.time_s,
            phase=phase,
        )


def throughput(measured: Sequence[Window], arm: str) -> Interval | None:
    """Samples per second of `arm`: from the paired windows where it has any, else calibration.

    Of the best baseline the calibration windows are left out: it was chosen for being fast in them.
    """
    for phase in ("paired", "calibration"):
        rates = [w.samples / w.time_s for w in measured if w.arm == arm and w.phase == phase]
        if rates:
            return _interval(mean_ratio(rates))
    return None


def best_baseline(measured: Sequence[Window]) -> str:
    """The arm of highest throughput in the calibration windows."""
    names = dict.fromkeys(w.arm for w in measured if w.phase == "calibration")

    def rate(name: str) -> float:
        interval = throughput([w for w in measured if w.phase == "calibration"], name)
        return interval.estimate if interval else 0.0

    return max(names, key=rate)


def speedup(measured: Sequence[Window], baseline: str, optimized: str) -> Speedup:
    """The paired ratio with its interval, beside the interval of the A/A run."""
    ratios = _ratios(measured, "paired", baseline, optimized)
    estimate = mean_ratio(ratios)
    noise = _ratios(measured, "noise", baseline, baseline + AGAIN)
    return Speedup(
        baseline=baseline,
        optimized=optimized,
        estimate=estimate.value,
        ci95=(estimate.low, estimate.high),
        pairs=len(ratios),
        noise_floor=bootstrap_interval(noise),
        ratios=ratios,
    )


def _ratios(measured: Sequence[Window], phase: str, baseline: str, optimized: str) -> list[float]:
    samples = [Sample(w.arm, w.pair, w.position, w.time_s) for w in measured if w.phase == phase]
    return paired_ratios(samples, baseline, optimized)


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.value, (estimate.low, estimate.high))
