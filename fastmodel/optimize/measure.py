"""Races: the plain form of something against the optimized one, in interleaved pairs of windows.

A window is as many runs as take a few milliseconds. Pairs are taken in growing rounds until the 95 % interval
of the ratio lies on one side of the gain asked for, or the time is over: a clear case costs six pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from fastmodel.optimize.budget import Budget
from fastmodel.optimize.evidence import Measurement
from fastmodel.timing import (
    Sample,
    geometric_mean,
    interleave,
    mean_ratio,
    now_s,
    paired_ratios,
)

LEAST_PAIRS = 6
"""The fewest that an interval is made of."""
MOST_PAIRS = 48
WARM_RUNS = 2
"""Of each form before it is timed."""
_WINDOW_S = 4e-3
_RESAMPLES = 4_000

_PLAIN, _OURS = "torch", "fastmodel"

Run = Callable[[], object]


def race(
    plain: Run, ours: Run, budget: Budget, gain: float, device: torch.device | str = "cpu"
) -> Measurement | None:
    """Time both forms until one side of `gain` is certain; None where the budget is over before.

    Args:
        plain: one run of PyTorch's form.
        ours: one run of the optimized form.
        budget: time to take; kept to within one run.
        gain: the ratio that decides, 1.02 for "at least 2 % faster".
        device: waited for at the edges of each window.
    """
    run_time_s = _warm((plain, ours), budget, device)
    if run_time_s is None:
        return None
    repeats = max(1, math.ceil(_WINDOW_S / run_time_s))
    arms = {_PLAIN: _repeated(plain, repeats), _OURS: _repeated(ours, repeats)}
    ratios: list[float] = []
    times: dict[str, list[float]] = {_PLAIN: [], _OURS: []}
    found = None
    pairs = LEAST_PAIRS
    while len(ratios) < MOST_PAIRS:
        samples = _windows(arms, pairs, budget, device)
        ratios += paired_ratios(samples, _PLAIN, _OURS)
        for sample in samples:
            times[sample.arm].append(sample.time_s / repeats)
        if len(ratios) < LEAST_PAIRS:
            return None
        estimate = mean_ratio(ratios, _RESAMPLES)
        found = Measurement(
            geometric_mean(times[_PLAIN]),
            geometric_mean(times[_OURS]),
            estimate.value,
            estimate.low,
            estimate.high,
            len(ratios),
        )
        if estimate.low > gain or estimate.high < gain or len(samples) < 2 * pairs:
            break
        pairs = len(ratios)
    return found


def ranking(
    arms: Mapping[str, Run], budget: Budget, device: torch.device | str = "cpu", rounds: int = 4
) -> list[str]:
    """The arms from the fastest to the slowest, by a few interleaved rounds."""
    run_time_s = _warm(tuple(arms.values()), budget, device)
    if run_time_s is None:
        return list(arms)
    repeats = max(1, math.ceil(_WINDOW_S / run_time_s))
    windows = {name: _repeated(run, repeats) for name, run in arms.items()}
    samples = _windows(windows, rounds, budget, device)
    times = {name: [s.time_s for s in samples if s.arm == name] for name in arms}
    rounds_done = min(map(len, times.values()))
    if rounds_done == 0:
        return list(arms)
    return sorted(arms, key=lambda name: geometric_mean(times[name][:rounds_done]))


def _warm(runs: tuple[Run, ...], budget: Budget, device: torch.device | str) -> float | None:
    """Seconds of the slowest run once warm; None where not even the fewest pairs would fit."""
    slowest_s = 0.0
    for run in runs:
        for _ in range(WARM_RUNS):
            start_s = now_s(device)
            run()
            last_s = now_s(device) - start_s
            if budget.left_s() < LEAST_PAIRS * last_s:
                return None
        slowest_s = max(slowest_s, last_s)
    return slowest_s


def _windows(
    arms: Mapping[str, Run], pairs: int, budget: Budget, device: torch.device | str
) -> list[Sample]:
    """Interleaved windows of whole rounds, as many as fit."""
    samples: list[Sample] = []
    for sample in interleave(arms, pairs, device):
        samples.append(sample)
        if sample.position == len(arms) - 1 and budget.left_s() <= 0:
            break
    return samples


def _repeated(run: Run, repeats: int) -> Run:
    def window() -> None:
        for _ in range(repeats):
            run()

    return window
