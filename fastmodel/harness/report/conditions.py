"""How quiet the machine was: rest, disturbed windows, and arms that could not be run."""

from __future__ import annotations

from collections import Counter

from fastmodel.harness.records import Report

from . import format as fmt
from .roles import why
from .tables import Cell, Table, missing, text


def rest(report: Report) -> Table:
    """Whether each arm's paired windows came to rest."""
    speedup = report.speedup
    rows = []
    for name, steady in (speedup.steadiness if speedup is not None else {}).items():
        first = missing(steady.verdict) if steady.first is None else Cell(f"{steady.first + 1}")
        drift = missing(steady.verdict) if steady.drift is None else Cell(_signed(steady.drift))
        rows.append([text(name), text(steady.verdict), first, drift])
    absent = why(report.missing, "speedup") if speedup is None else "not recorded in this version"
    return Table(
        "rest",
        "Did the timing come to rest?",
        ["Arm", "Verdict", "Steady from window", "Drift of a window's time"],
        rows,
        numeric=frozenset((2, 3)),
        remarks=[
            "The pairs cancel a drift that both arms share; one that never ends says that a longer run may"
            " come out otherwise."
        ],
        absent=fmt.clean(absent),
    )


def _signed(value: float) -> str:
    return f"{value * 100:+.1f} %"


def disturbances(report: Report) -> Table:
    """What disturbed how many windows, and the ratio without the disturbed pairs."""
    kinds: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for window in report.windows:
        for mark in window.marks:
            kind = mark.partition(":")[0]
            kinds[kind] += 1
            examples.setdefault(kind, mark)
    rows = [
        [
            text(kind),
            Cell(f"{fmt.count(count)} of {fmt.count(len(report.windows))}"),
            text(examples[kind]),
        ]
        for kind, count in kinds.most_common()
    ]
    remarks = [
        "Disturbed windows stay in every figure: leaving out slow ones would choose the result."
    ]
    speedup = report.speedup
    if speedup is not None and speedup.disturbed_pairs and speedup.undisturbed is not None:
        without = speedup.undisturbed
        remarks.append(
            f"Without the disturbed pairs ({speedup.disturbed_pairs}) the ratio would be "
            f"{fmt.ratio(without.estimate)} ({fmt.ratio_interval(without.ci95)})."
        )
    return Table(
        "disturbances",
        "Disturbed windows",
        ["What", "Windows", "For instance"],
        rows,
        numeric=frozenset((1,)),
        remarks=remarks,
        absent="nothing was seen to disturb a window",
    )


def failures(report: Report) -> Table:
    """The arms that could not be run, and why."""
    rows = [[text(name), text(reason)] for name, reason in report.failures.items()]
    return Table("failures", "Arms that failed", ["Arm", "Reason"], rows, absent="every arm ran")
