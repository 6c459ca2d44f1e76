"""Two reports side by side: which figures moved by more than their intervals, and a gate for CI.

The gate looks at the speed-up over the best baseline: both reports measured it against their own
baseline in the same minutes, so that a machine that is slower today slows both sides of it. What is
bounded is new speed-up over old; its interval is that of a quotient of two independent runs. The gate
fails only when that whole interval lies below the bound: what cannot be told apart passes. Two installations
may be timed in turns instead (`side_by_side.py`); what they gave is a record of its own here.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastmodel.errors import InputError
from fastmodel.harness.records import Interval, Report
from fastmodel.timing import Estimate, quotient


@dataclass(frozen=True)
class Comparison:
    """One figure of two reports.

    `ratio` is new over old with its 95 % interval; `verdict` is "higher" or "lower" where that excludes
    1, "no difference seen" where it does not, and says so where one report lacks the figure.
    """

    name: str
    old: Interval | None
    new: Interval | None
    ratio: Interval | None
    verdict: str


@dataclass(frozen=True)
class Verdict:
    """What the gate says: `passed`, and the figures behind it in words."""

    passed: bool
    bound: float
    ratio: Interval
    reason: str


@dataclass(frozen=True)
class Comparisons:
    """All figures, and what makes the two reports hard to compare."""

    rows: list[Comparison]
    warnings: list[str]
    gate: Verdict | None = None


OLD, NEW = "old", "new"


@dataclass(frozen=True)
class Session:
    """Two installations, each in a fresh process, timed in turns."""

    ratios: list[float]
    """Old time over new time of every pair: below 1 the new one is slower."""
    step_time_s: dict[str, float]
    """Median of each."""


@dataclass(frozen=True)
class SideBySide:
    """What two installations gave, and the gate where a bound was asked for."""

    old: str
    new: str
    workload: str
    steps_per_window: int
    warmup_steps: int
    sessions: list[Session]
    ratio: Interval
    gate: Verdict | None


def compare(
    old: Report, new: Report, fail_below: float | None = None, allow_unlike: bool = False
) -> Comparisons:
    """The speed-up and the throughput of every arm of either report; with a bound, the gate too.

    Raises:
        InputError: a bound is given and the reports cannot be held against each other: other
            environments or workloads (unless `allow_unlike`), or no speed-up in one.
    """
    names = dict.fromkeys([*old.arms, *new.arms])
    rows = [_row("speedup", _speedup(old), _speedup(new))]
    rows += [
        _row(f"{name} samples/s", _throughput(old, name), _throughput(new, name)) for name in names
    ]
    differences, warnings = _differences(old, new), _warnings(old, new)
    gate = None
    if fail_below is not None:
        if differences and not allow_unlike:
            raise InputError(
                f"the reports are not of one kind ({'; '.join(differences)}); measure both alike, or "
                "pass --allow-unlike"
            )
        gate = _gate(rows[0], fail_below)
    return Comparisons(rows, differences + warnings, gate)


def _gate(speedup: Comparison, bound: float) -> Verdict:
    if speedup.ratio is None:
        raise InputError(f"--fail-below needs a speed-up in both reports; {speedup.verdict}")
    return judge("speed-up new / old", speedup.ratio, bound)


def judge(name: str, ratio: Interval, bound: float) -> Verdict:
    """Fails only where the whole interval lies below the bound."""
    low, high = ratio.ci95
    figures = f"{name} {ratio.estimate:.3f} [{low:.3f}, {high:.3f}]"
    if high < bound:
        return Verdict(False, bound, ratio, f"{figures} lies below {bound:g}")
    return Verdict(True, bound, ratio, f"{figures} is not below {bound:g}")


def _row(name: str, old: Interval | None, new: Interval | None) -> Comparison:
    if old is None or new is None:
        lacking = " and ".join(w for w, v in (("old", old), ("new", new)) if v is None)
        return Comparison(name, old, new, None, f"missing in {lacking}")
    ratio = quotient(_estimate(new), _estimate(old))
    verdict = "higher" if ratio.low > 1 else "lower" if ratio.high < 1 else "no difference seen"
    return Comparison(name, old, new, Interval(ratio.value, (ratio.low, ratio.high)), verdict)


def _estimate(interval: Interval) -> Estimate:
    return Estimate(interval.estimate, *interval.ci95)


def _speedup(report: Report) -> Interval | None:
    if report.speedup is None:
        return None
    return Interval(report.speedup.estimate, report.speedup.ci95)


def _throughput(report: Report, arm: str) -> Interval | None:
    return report.arms[arm].throughput_samples_per_s if arm in report.arms else None


def _differences(old: Report, new: Report) -> list[str]:
    def facts(report: Report) -> dict[str, object]:
        env, work = report.environment, report.workload
        return {
            "machine": env.cpu_model,
            "cores": env.cpu_count,
            "GPUs": env.gpus,
            "threads": env.threads,
            "CPU capability": env.cpu_capability,
            "PyTorch": env.torch_version,
            "environment variables": env.variables,
            "workload": work.name,
            "parameters": work.parameters,
            "batch size": work.batch_size,
            "device": work.options.get("device"),
        }

    before, after = facts(old), facts(new)
    return [
        f"{what} differs: {before[what]} and {after[what]}"
        for what in before
        if before[what] != after[what]
    ]


def _warnings(old: Report, new: Report) -> list[str]:
    found = [
        f"the {label} report is incomplete: {report.incomplete_reason}"
        for label, report in (("old", old), ("new", new))
        if not report.complete
    ]
    # No reason to refuse: each is the best that PyTorch had there, and near ties may fall either way.
    if old.speedup and new.speedup and old.speedup.baseline != new.speedup.baseline:
        baselines = f"{old.speedup.baseline} and {new.speedup.baseline}"
        found.append(f"best baseline differs: {baselines}")
    return found
