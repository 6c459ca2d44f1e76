"""What the run showed, in one honest sentence and a handful of figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fastmodel.harness.records import Arm, Report, Speedup

from . import format as fmt
from .roles import baseline_arm, optimized_arm, why

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """One headline figure: the optimized arm's value, and what to compare it with."""

    label: str
    value: str
    detail: str


def title(report: Report) -> str:
    return f"{fmt.clean(report.workload.name)}: fastmodel against PyTorch"


def verdict(speedup: Speedup) -> str:
    """ "faster" or "slower" where the interval excludes 1, else "no difference"."""
    low, high = speedup.ci95
    if low > 1:
        return "faster"
    return "slower" if high < 1 else "no difference"


def is_within_noise(speedup: Speedup) -> bool:
    """Does the ratio's interval overlap the interval of the baseline against itself?"""
    return speedup.ci95[0] <= speedup.noise_floor[1] and speedup.noise_floor[0] <= speedup.ci95[1]


def incomplete(report: Report) -> str | None:
    """What a reader of an unfinished run must know first; None for a complete run."""
    if report.complete:
        return None
    reason = fmt.clean(report.incomplete_reason or "no reason was recorded")
    return f"This run is incomplete ({reason}); the report shows what was measured until then."


def sentence(report: Report) -> str:
    """The outcome in plain words: a win, a loss, a tie, or why there is none."""
    workload = fmt.clean(report.workload.name)
    if report.gate is not None and not report.gate.passed:
        failed = sum(not check.passed for check in report.gate.checks)
        return (
            f"fastmodel's numbers were wrong on {workload}: {failed} of"
            f" {len(report.gate.checks)} checks were out of bounds, so no speed is claimed."
        )
    if report.speedup is None:
        gate = "the numbers of both arms agreed, but " if report.gate is not None else ""
        reason = why(report.missing, "speedup")
        if reason == report.incomplete_reason:  # said above the sentence
            text = f"{gate}the run ended before speed was compared on {workload}."
        else:
            text = f"{gate}no speed was compared on {workload} ({fmt.clean(reason)})."
        return text[0].upper() + text[1:]
    return f"{_speed(report.speedup, workload)}{_accuracy(report)}."


def _speed(speedup: Speedup, workload: str) -> str:
    name = fmt.clean(speedup.optimized)
    subject = "fastmodel" if name == "fastmodel" else f"fastmodel ({name})"
    baseline = fmt.clean(speedup.baseline)
    estimate = fmt.ratio(speedup.estimate)
    interval = f"95 % interval {fmt.ratio_interval(speedup.ci95)}"
    outcome = verdict(speedup)
    if outcome == "no difference":
        return (
            f"{subject} was neither faster nor slower than PyTorch's best arm ({baseline}) on"
            f" {workload}, as far as this run can tell: the ratio of {estimate} has a {interval},"
            " which contains 1"
        )
    if outcome == "slower":
        text = (
            f"{subject} trained {workload} slower than PyTorch's best arm: {estimate} the"
            f" throughput of {baseline} ({interval})"
        )
    else:
        text = (
            f"{subject} trained {workload} {estimate} as fast as PyTorch's best arm ({baseline};"
            f" {interval})"
        )
    if is_within_noise(speedup):
        text += (
            ", a difference no larger than the noise of this machine (baseline against itself:"
            f" {fmt.ratio_interval(speedup.noise_floor)})"
        )
    return text


def _accuracy(report: Report) -> str:
    fast, base = optimized_arm(report), baseline_arm(report)
    if fast is None or base is None:
        return ""
    for arm in (fast, base):
        if arm.test_accuracy is None:
            reason = fmt.clean(why(arm.missing, "test_accuracy"))
            return f"; their test accuracies cannot be compared ({reason})"
    assert fast.test_accuracy is not None and base.test_accuracy is not None
    pair = f"({fmt.percent(fast.test_accuracy)} against {fmt.percent(base.test_accuracy)})"
    difference = fast.test_accuracy - base.test_accuracy
    if abs(difference) <= sampling_error(report):
        return f", at the same test accuracy {pair}"
    return f", at {'higher' if difference > 0 else 'lower'} test accuracy {pair}"


def sampling_error(report: Report) -> float:
    """Half the 95 % interval that the size of the test set leaves for a difference of accuracies.

    Two binomial proportions on n images each differ by chance with a standard deviation of
    sqrt(2 p (1 - p) / n), p being their mean. Zero where an accuracy is missing.
    """
    fast, base = optimized_arm(report), baseline_arm(report)
    samples = report.workload.test_samples
    if fast is None or base is None or samples < 1:
        return 0.0
    if fast.test_accuracy is None or base.test_accuracy is None:
        return 0.0
    p = (fast.test_accuracy + base.test_accuracy) / 2
    return 1.96 * math.sqrt(max(0.0, 2 * p * (1 - p) / samples))


def notes(report: Report) -> list[str]:
    """How to read the sentence: what the interval and "same accuracy" mean here."""
    lines = []
    if report.speedup is not None:
        lines.append(
            f"The ratio is the geometric mean over {report.speedup.pairs} interleaved pairs of"
            " timed windows, with a bootstrap 95 % interval. The baseline timed against itself"
            f" gave {fmt.ratio_interval(report.speedup.noise_floor)}: the noise floor."
        )
    margin = sampling_error(report)
    if margin:
        lines.append(
            f"On {fmt.count(report.workload.test_samples)} test samples, accuracies within"
            f" {margin * 100:.2f} points of each other count as the same (95 % sampling error)."
        )
    return lines


def figures(report: Report) -> list[Figure]:
    """The headline figures, the optimized arm beside its baseline; missing ones say n/a."""
    found = []
    speedup = report.speedup
    if speedup is not None:
        detail = f"95 % interval {fmt.ratio_interval(speedup.ci95)}, {speedup.pairs} pairs"
        found.append(
            Figure(f"Throughput ratio ({verdict(speedup)})", fmt.ratio(speedup.estimate), detail)
        )
    arm = optimized_arm(report) or baseline_arm(report)
    if arm is None:
        return found
    base = baseline_arm(report)
    other = None if base is arm else base

    def add(label: str, show: Callable[[Arm], str | None]) -> None:
        value, compared = show(arm), show(other) if other is not None else None
        if value is None and compared is None:
            return
        detail = "" if other is None else f"{fmt.clean(other.name)}: {compared or na}"
        found.append(Figure(label, value or na, detail))

    na = fmt.NOT_AVAILABLE
    add("Samples per second", _throughput)
    add("Test accuracy", lambda arm: _show(arm.test_accuracy, fmt.percent))
    first = min(arm.time_to_accuracy_s, default="")
    add(
        f"Training time to {fmt.target(first)}",
        lambda arm: _show(arm.time_to_accuracy_s.get(first), fmt.seconds),
    )
    add("Peak memory", lambda arm: _show(arm.peak_memory_bytes, fmt.size))
    add("Energy", lambda arm: _show(arm.energy_j, fmt.energy))
    add("Cost per epoch", lambda arm: _show(arm.cost_usd_per_epoch, fmt.usd))
    return found


def _show(value: T | None, show: Callable[[T], str]) -> str | None:
    return None if value is None else show(value)


def _throughput(arm: Arm) -> str | None:
    interval = arm.throughput_samples_per_s
    return None if interval is None else fmt.throughput(interval.estimate)
