"""Which arm plays which part, and how to say why a value is not there."""

from __future__ import annotations

from fastmodel.harness.records import Arm, Missing, Report

NO_REASON = "no reason was recorded"


def optimized_arm(report: Report) -> Arm | None:
    """The arm whose speed is claimed; without a speedup, the first optimized one."""
    if report.speedup is not None:
        return report.arms.get(report.speedup.optimized)
    return next((arm for arm in report.arms.values() if arm.is_optimized), None)


def baseline_arm(report: Report) -> Arm | None:
    """The arm compared against; without a speedup, the plain arm with the highest throughput."""
    if report.speedup is not None:
        return report.arms.get(report.speedup.baseline)
    plain = [arm for arm in report.arms.values() if not arm.is_optimized]
    return max(plain, key=_throughput, default=None)


def ordered_arms(report: Report) -> list[Arm]:
    """The optimized arm, its baseline, then the others from the fastest down."""
    first = [arm for arm in (optimized_arm(report), baseline_arm(report)) if arm is not None]
    rest = [arm for arm in report.arms.values() if arm not in first]
    return first + sorted(rest, key=_throughput, reverse=True)


def role(report: Report, arm: Arm) -> str:
    """ "optimized", "baseline" or "other": what the arm's colour stands for."""
    if arm is optimized_arm(report):
        return "optimized"
    return "baseline" if arm is baseline_arm(report) else "other"


def why(missing: Missing, name: str) -> str:
    """The reason that a record gives for its missing field `name`."""
    return missing.get(name) or NO_REASON


def _throughput(arm: Arm) -> float:
    interval = arm.throughput_samples_per_s
    return interval.estimate if interval is not None else -1.0
