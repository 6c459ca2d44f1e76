"""Two reports side by side: which figures moved by more than their intervals."""

from __future__ import annotations

from dataclasses import dataclass

from fastmodel.harness.records import Interval, Report


@dataclass(frozen=True)
class Comparison:
    """One figure of two reports.

    `ratio` is new over old; `verdict` is "higher" or "lower" where the two 95 % intervals do not
    overlap, "no difference seen" where they do, and says so where one report lacks the figure.
    """

    name: str
    old: Interval | None
    new: Interval | None
    ratio: float | None
    verdict: str


@dataclass(frozen=True)
class Comparisons:
    """All figures, and what makes the two reports hard to compare."""

    rows: list[Comparison]
    warnings: list[str]


def compare(old: Report, new: Report) -> Comparisons:
    """The speed-up and the throughput of every arm of either report."""
    names = dict.fromkeys([*old.arms, *new.arms])
    rows = [_row("speedup", _speedup(old), _speedup(new))]
    rows += [
        _row(f"{name} samples/s", _throughput(old, name), _throughput(new, name)) for name in names
    ]
    return Comparisons(rows, _warnings(old, new))


def _row(name: str, old: Interval | None, new: Interval | None) -> Comparison:
    if old is None or new is None:
        lacking = " and ".join(w for w, v in (("old", old), ("new", new)) if v is None)
        return Comparison(name, old, new, None, f"missing in {lacking}")
    if new.ci95[0] > old.ci95[1]:
        verdict = "higher"
    elif new.ci95[1] < old.ci95[0]:
        verdict = "lower"
    else:
        verdict = "no difference seen"
    return Comparison(name, old, new, new.estimate / old.estimate, verdict)


def _speedup(report: Report) -> Interval | None:
    if report.speedup is None:
        return None
    return Interval(report.speedup.estimate, report.speedup.ci95)


def _throughput(report: Report, arm: str) -> Interval | None:
    return report.arms[arm].throughput_samples_per_s if arm in report.arms else None


def _warnings(old: Report, new: Report) -> list[str]:
    pairs = {
        "machine": (old.environment.cpu_model, new.environment.cpu_model),
        "GPUs": (old.environment.gpus, new.environment.gpus),
        "threads": (old.environment.threads, new.environment.threads),
        "PyTorch": (old.environment.torch_version, new.environment.torch_version),
        "workload": (old.workload.name, new.workload.name),
        "batch size": (old.workload.batch_size, new.workload.batch_size),
        "best baseline": (
            old.speedup.baseline if old.speedup else None,
            new.speedup.baseline if new.speedup else None,
        ),
    }
    warnings = [f"{what} differs: {a} and {b}" for what, (a, b) in pairs.items() if a != b]
    for label, report in (("old", old), ("new", new)):
        if not report.complete:
            warnings.append(f"the {label} report is incomplete: {report.incomplete_reason}")
    return warnings
