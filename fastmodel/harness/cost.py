"""Money: a rate in USD per hour times seconds that were measured elsewhere. Reads no clock."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path

from fastmodel.errors import DataError, InputError
from fastmodel.harness.records import Arm, CostRate, Electricity, Report, WorkloadInfo

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NO_RATE = "no rate given; pass --rate-usd-per-h or --instance"
MAX_RATE_USD_PER_H = 1e5
JOULES_PER_KWH = 3.6e6
_SECONDS_PER_H = 3600.0
_MILLION = 1e6


def prices(own: Path | None = None) -> dict[str, CostRate]:
    """The dated price list that comes with the package, by name; entries of a file `own` stand above.

    Raises:
        DataError: `own` cannot be read, or an entry in it is no price.
    """
    listed = _parse(resources.files("fastmodel.harness").joinpath("prices.toml").read_text("utf-8"))
    if own is None:
        return listed
    try:
        return listed | _parse(own.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {own} ({error.strerror}); pass a file of prices") from error
    except (ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{own} is no file of prices ({reason}); see fastmodel/harness/prices.toml"
        ) from error


def _parse(text: str) -> dict[str, CostRate]:
    found = {name: CostRate(**entry) for name, entry in tomllib.loads(text).items()}
    for name, rate in found.items():
        if not (isinstance(rate.rate_usd_per_h, (int, float)) and _is_a_rate(rate.rate_usd_per_h)):
            raise ValueError(
                f"{name}: rate_usd_per_h must be above 0, at most {MAX_RATE_USD_PER_H:g}"
            )
    return found


def _is_a_rate(value: float) -> bool:
    return math.isfinite(value) and 0 < value <= MAX_RATE_USD_PER_H


def resolve_rate(
    rate_usd_per_h: float | None, instance: str | None, own: Path | None = None
) -> CostRate | None:
    """The rate to count with: the caller's own, that of a listed instance, or none.

    Raises:
        InputError: both are given, the rate is not within (0, 1e5], or the instance is not listed.
        DataError: the caller's file of prices cannot be used.
    """
    listed = prices(own)
    if rate_usd_per_h is not None and instance is not None:
        raise InputError("--rate-usd-per-h and --instance are both given; pass one of them")
    if rate_usd_per_h is not None:
        if not _is_a_rate(rate_usd_per_h):
            raise InputError(
                f"--rate-usd-per-h must be above 0 and at most {MAX_RATE_USD_PER_H:g}, "
                f"got {rate_usd_per_h:g}"
            )
        return CostRate(rate_usd_per_h, "given on the command line", "--rate-usd-per-h", None)
    if instance is None:
        return None
    if instance not in listed:
        raise InputError(
            f"--instance {instance!r} is not listed; use one of: {', '.join(listed)}, "
            "or pass --rate-usd-per-h"
        )
    return listed[instance]


def check_electricity(
    price_usd_per_kwh: float | None, intensity_g_per_kwh: float | None
) -> Electricity | None:
    """What the user gave, or None where nothing was given.

    Raises:
        InputError: a number that is not finite or below 0.
    """
    if price_usd_per_kwh is None and intensity_g_per_kwh is None:
        return None
    for name, value in (
        ("--electricity-usd-per-kwh", price_usd_per_kwh),
        ("--grid-g-per-kwh", intensity_g_per_kwh),
    ):
        if value is not None and not (math.isfinite(value) and 0 <= value <= 1e5):
            raise InputError(f"{name} must be within [0, 1e5], got {value:g}")
    return Electricity(price_usd_per_kwh, intensity_g_per_kwh)


def with_cost(
    arm: Arm, rate: CostRate | None, electricity: Electricity | None, workload: WorkloadInfo
) -> Arm:
    """`arm` with its money and carbon figures.

    An epoch and a million samples cost what they take at the arm's timed throughput; the total and the
    money to an accuracy are training time of its run alone. Start-up and evaluation stand apart. Electricity
    is that of the training run, which the rate of a rented machine contains already. What cannot be
    said is None with a reason.
    """
    missing = dict(arm.missing)
    usd_per_s = None if rate is None else rate.rate_usd_per_h / _SECONDS_PER_H

    def usd(name: str, time_s: float | None, because: str) -> float | None:
        if usd_per_s is None or time_s is None:
            missing[name] = NO_RATE if usd_per_s is None else because
            return None
        return time_s * usd_per_s

    rated = arm.throughput_samples_per_s
    sample_s = None if rated is None else 1 / rated.estimate
    untimed = missing.get("throughput_samples_per_s", "the arm was not timed")
    untrained = missing.get("train_time_s", "the arm was not trained")
    tokens = workload.tokens_per_sample
    token_s = None if sample_s is None or tokens is None else sample_s / tokens
    no_tokens = untimed if tokens is not None else "the workload has no tokens"
    to_accuracy = {
        target: None if usd_per_s is None or time_s is None else time_s * usd_per_s
        for target, time_s in arm.time_to_accuracy_s.items()
    }
    return dataclasses.replace(
        arm,
        cost_usd_per_epoch=usd(
            "cost_usd_per_epoch", _times(sample_s, workload.train_samples), untimed
        ),
        cost_usd_per_million_samples=usd(
            "cost_usd_per_million_samples", _times(sample_s, _MILLION), untimed
        ),
        cost_usd_per_million_tokens=usd(
            "cost_usd_per_million_tokens", _times(token_s, _MILLION), no_tokens
        ),
        cost_usd_total=usd("cost_usd_total", arm.train_time_s, untrained),
        cost_usd_startup=usd(
            "cost_usd_startup", arm.startup_time_s, missing.get("startup_time_s", "")
        ),
        cost_usd_evaluation=usd(
            "cost_usd_evaluation", arm.evaluation_time_s, missing.get("evaluation_time_s", "")
        ),
        cost_usd_to_accuracy=to_accuracy,
        electricity_usd=_of_energy(arm, electricity, "electricity_usd", missing),
        emissions_g=_of_energy(arm, electricity, "emissions_g", missing),
        missing=missing,
    )


def _of_energy(
    arm: Arm, electricity: Electricity | None, name: str, missing: dict[str, str]
) -> float | None:
    """Kilowatt-hours of the training run times the price, or the intensity, that was given."""
    field, option = {
        "electricity_usd": ("price_usd_per_kwh", "--electricity-usd-per-kwh"),
        "emissions_g": ("intensity_g_per_kwh", "--grid-g-per-kwh"),
    }[name]
    factor = getattr(electricity, field, None)
    if factor is None:
        missing[name] = f"not asked for; pass {option}"
        return None
    if arm.energy_j is None:
        missing[name] = missing.get("energy_j", "the energy was not read")
        return None
    return arm.energy_j / JOULES_PER_KWH * factor


def _times(unit: float | None, count: float) -> float | None:
    return None if unit is None else unit * count


@dataclasses.dataclass(frozen=True)
class WhatIf:
    """What a million samples would cost on the machine that was measured, at another price for it."""

    rate: CostRate
    usd_per_million_samples: dict[str, float]
    """By arm, at its timed throughput."""


def what_if(report: Report, rates: Iterable[CostRate]) -> list[WhatIf]:
    """The arms' timed throughputs at other prices of the same machine; nothing else is assumed.

    Prices of other machines belong to reports measured there: `fastmodel report DIR DIR...`.
    """
    timed = {
        name: arm.throughput_samples_per_s.estimate
        for name, arm in report.arms.items()
        if arm.throughput_samples_per_s is not None
    }
    return [
        WhatIf(
            rate,
            {
                name: _MILLION / per_s * rate.rate_usd_per_h / _SECONDS_PER_H
                for name, per_s in timed.items()
            },
        )
        for rate in rates
    ]


def same_machine(rate: CostRate, listed: Mapping[str, CostRate]) -> list[CostRate]:
    """`rate`, and the listed prices of the same instance of another kind: on-demand beside spot."""
    name = next((name for name, entry in listed.items() if entry == rate), None)
    if name is None:
        return [rate]
    base = name.removesuffix("-spot")
    return [listed[key] for key in (base, f"{base}-spot") if key in listed]
