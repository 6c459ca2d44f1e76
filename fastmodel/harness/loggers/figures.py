"""The figures of a report one by one, for tools that keep named numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastmodel.harness.records import Arm, Report


@dataclass(frozen=True)
class Figure:
    """A number with the arm that it belongs to ("" for the whole run); the unit ends its name."""

    name: str
    value: float
    help: str
    arm: str = ""


_OF_AN_ARM = {
    "test_accuracy": "Share of test samples classified rightly",
    "test_loss": "Mean loss over the test samples",
    "train_time_s": "Training time of the run, evaluation excluded",
    "startup_time_s": "From the start of building the arm to the end of its first step",
    "evaluation_time_s": "Time of validation over all epochs",
    "peak_memory_bytes": "Highest memory in use above the level before the arm was built",
    "energy_j": "Energy of the training run",
    "cost_usd_per_epoch": "Price of an epoch at the timed throughput",
    "cost_usd_per_million_samples": "Price of a million samples at the timed throughput",
    "cost_usd_total": "Price of the training run",
    "emissions_g": "Grams of CO2 equivalent of the training run",
}


def figures(report: Report) -> Iterator[Figure]:
    """What was measured; what is missing is left out, never 0."""
    if report.speedup is not None:
        low, high = report.speedup.ci95
        about = "Throughput of the optimized arm over that of the best baseline"
        yield Figure("speedup_ratio", report.speedup.estimate, about)
        yield Figure("speedup_ratio_low", low, f"{about}, lower end of the 95 % interval")
        yield Figure("speedup_ratio_high", high, f"{about}, upper end of the 95 % interval")
    for arm in report.arms.values():
        yield from _of_arm(arm)


def _of_arm(arm: Arm) -> Iterator[Figure]:
    rate = arm.throughput_samples_per_s
    if rate is not None:
        about = "Training samples per second"
        yield Figure("throughput_samples_per_s", rate.estimate, about, arm.name)
    for name, about in _OF_AN_ARM.items():
        value = getattr(arm, name)
        if value is not None:
            yield Figure(name, value, about, arm.name)


EPOCH_FIELDS = ("train_loss", "validation_loss", "validation_accuracy", "elapsed_train_time_s")


def of_epochs(arm: Arm) -> Iterator[tuple[int, dict[str, float]]]:
    """Each epoch's number and its finite figures."""
    for epoch in arm.epochs:
        values = {name: getattr(epoch, name) for name in EPOCH_FIELDS}
        yield epoch.epoch, {name: value for name, value in values.items() if value is not None}
