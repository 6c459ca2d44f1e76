"""Paired timing of the arms, in three phases over windows of a fixed number of steps.

1. calibration: all baseline arms in turns; the fastest is the baseline that fastmodel must beat.
2. paired: that baseline and the optimized arm, ABBA, on fresh windows, so that the choice made in
   phase 1 does not flatter anyone. The ratios come from here.
3. noise: the baseline against a second build of itself. The interval of that A/A run says which
   differences this machine cannot see.

Each phase builds its arms anew; they meet the same batches in the same order, and every window starts
from the weights that the warm-up left, so that all windows do the same work (rewind.py). The warm-up trains
for some seconds: in the very first steps hardly a ReLU is dead, which no training stays at. How far it
trains decides the ratio, so its number of steps is one of a few round ones, that runs alike have in common.
Windows that something disturbed are marked and stay in every figure.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fastmodel.harness.conditions import Conditions, marks
from fastmodel.harness.records import Interval, Speedup, Steady, Window
from fastmodel.harness.rewind import Rewind
from fastmodel.harness.workloads.arms import Arm, Loop
from fastmodel.harness.workloads.protocol import Options, Workload, endless_batches
from fastmodel.timing import (
    Estimate,
    Sample,
    Stopping,
    block_length,
    bootstrap_interval,
    interleave,
    mean_ratio,
    now_s,
    paired_ratios,
    steadiness,
)

_WARMUPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)

AGAIN = " (again)"
"""Suffix of the second build of the baseline in the A/A run."""


@dataclass(frozen=True)
class Timing:
    """How long and how often to time.

    `pairs` are the fewest; with `half_width` the paired timing goes on until its interval is that narrow
    (relative, 0.01 is 1 %), `max_pairs` are timed or `budget_s` seconds of it are spent.
    """

    pairs: int = 16
    calibration_rounds: int = 4
    window_time_s: float = 0.5
    warmup_time_s: float = 3.0
    """Trained at most by the first arm before its windows; the others train as many steps."""
    warmup_steps: int = 10
    """Of the first arm, before it tells how many steps a window holds."""
    half_width: float | None = None
    max_pairs: int | None = None
    budget_s: float | None = None

    @property
    def stopping(self) -> Stopping:
        """When the paired timing ends."""
        return Stopping(self.pairs, self.max_pairs, self.half_width, self.budget_s)


class Stepper(Protocol):
    """An arm that can be timed, in this process or in one of its own."""

    startup_time_s: float

    def run(self, steps: int) -> None:
        """Train `steps` steps; batch selection is part of the work."""

    def rewind(self) -> None:
        """Go back to the training state of the first call, which keeps it."""

    def close(self) -> None:
        """Let go of what the arm holds."""


class Runner:
    """One arm ready to be timed in this process: its loop, its endless batches, its first step done."""

    def __init__(self, arm: Arm, workload: Workload, options: Options) -> None:
        self.arm = arm
        self._device = options.device
        start_s = now_s(self._device)
        self.loop: Loop = arm.build(workload, options)
        split = self.loop.place(workload.train)
        self._batches = endless_batches(split, options.batch_size, options.seed)
        self.run(1)
        self.startup_time_s = now_s(self._device) - start_s
        self._start: Rewind | None = None

    def run(self, steps: int) -> None:
        """Train `steps` steps; batch selection is part of the work."""
        for _ in range(steps):
            self.loop.step(*next(self._batches))

    def rewind(self) -> None:
        """Go back to the training state of the first call, which keeps it."""
        if self._start is None:
            self._start = Rewind(self.loop)
        else:
            self._start.back()

    def close(self) -> None:
        """Nothing to do: the loop goes when nobody refers to it."""


@dataclass(frozen=True)
class Steps:
    """How many steps a window has, and the warm-up before the windows of an arm."""

    window: int
    warmup: int


def choose_steps(runner: Stepper, timing: Timing, device: str) -> Steps:
    """A window of as many steps as `runner`, once warm, does in the wanted time; at least 1.

    The warm-up has the most steps of 0, 1, 2, 5, 10, 20, ... 500 that its time allows.
    """
    start_s = now_s(device)
    runner.run(timing.warmup_steps)
    step_time_s = (now_s(device) - start_s) / timing.warmup_steps
    warmup = max(n for n in _WARMUPS if n * step_time_s <= timing.warmup_time_s)
    return Steps(max(1, round(timing.window_time_s / step_time_s)), warmup)


def windows(
    runners: Mapping[str, Stepper],
    phase: str,
    rounds: range,
    steps: int,
    options: Options,
) -> Iterator[Window]:
    """Interleaved windows of `steps` steps, as they end, for the rounds of these numbers."""
    arms = {name: (lambda runner=runner: runner.run(steps)) for name, runner in runners.items()}
    before_each = {name: runner.rewind for name, runner in runners.items()}
    conditions = Conditions()
    before = conditions.read()
    for sample in interleave(
        arms, len(rounds), options.device, first=rounds.start, before_each=before_each
    ):
        after = conditions.read()
        yield Window(
            arm=sample.arm,
            pair=sample.pair,
            position=sample.position,
            steps=steps,
            samples=steps * options.batch_size,
            time_s=sample.time_s,
            phase=phase,
            marks=marks(before, after),
        )
        before = conditions.read()


def throughput(measured: Sequence[Window], arm: str) -> Interval | None:
    """Samples per second of `arm`: from the paired windows where it has any, else calibration.

    Of the best baseline the calibration windows are left out: it was chosen for being fast in them.
    """
    for phase in ("paired", "calibration"):
        rates = [w.samples / w.time_s for w in measured if w.arm == arm and w.phase == phase]
        if rates:
            return _interval(mean_ratio(rates))
    return None


def best_baseline(measured: Sequence[Window], failed: Container[str] = ()) -> str:
    """The arm of highest throughput in the calibration windows, of those that have not failed."""
    timed = dict.fromkeys(w.arm for w in measured if w.phase == "calibration")
    names = [name for name in timed if name not in failed]

    def rate(name: str) -> float:
        interval = throughput([w for w in measured if w.phase == "calibration"], name)
        return interval.estimate if interval else 0.0

    return max(names, key=rate)


def speedup(measured: Sequence[Window], baseline: str, optimized: str) -> Speedup:
    """The paired ratio with its interval, beside the interval of the A/A run."""
    found = ratios(measured, "paired", baseline, optimized)
    estimate = mean_ratio(found)
    noise = ratios(measured, "noise", baseline, baseline + AGAIN)
    paired = [w for w in measured if w.phase == "paired" and w.arm in (baseline, optimized)]
    disturbed = {w.pair for w in paired if w.marks}
    rest = ratios([w for w in paired if w.pair not in disturbed], "paired", baseline, optimized)
    return Speedup(
        baseline=baseline,
        optimized=optimized,
        estimate=estimate.value,
        ci95=(estimate.low, estimate.high),
        pairs=len(found),
        noise_floor=bootstrap_interval(noise),
        ratios=found,
        block_length=block_length(found),
        undisturbed=_interval(mean_ratio(rest)) if len(rest) > 1 else None,
        disturbed_pairs=len(found) - len(rest),
        steadiness={name: _steady(paired, name) for name in (baseline, optimized)},
    )


def ratios(measured: Sequence[Window], phase: str, baseline: str, optimized: str) -> list[float]:
    """Baseline time over optimized time of every pair of a phase that has both."""
    samples = [Sample(w.arm, w.pair, w.position, w.time_s) for w in measured if w.phase == phase]
    return paired_ratios(samples, baseline, optimized)


def _steady(paired: Sequence[Window], arm: str) -> Steady:
    found = steadiness([w.time_s for w in paired if w.arm == arm])
    return Steady(found.verdict, found.first, found.drift)


def _interval(estimate: Estimate) -> Interval:
    return Interval(estimate.value, (estimate.low, estimate.high))
