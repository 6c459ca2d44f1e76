"""Money: a rate in USD per hour times seconds that were measured elsewhere. Reads no clock."""

from __future__ import annotations

import dataclasses
import math
import sys
from importlib import resources

from fastmodel.errors import InputError
from fastmodel.harness.records import Arm, CostRate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NO_RATE = "no rate given; pass --rate-usd-per-h or --instance"
MAX_RATE_USD_PER_H = 1e5
_SECONDS_PER_H = 3600.0


def prices() -> dict[str, CostRate]:
    """The dated price list that comes with the package, by instance name such as "c5.large"."""
    text = resources.files("fastmodel.harness").joinpath("prices.toml").read_text("utf-8")
    return {name: CostRate(**entry) for name, entry in tomllib.loads(text).items()}


def resolve_rate(rate_usd_per_h: float | None, instance: str | None) -> CostRate | None:
    """The rate to count with: the caller's own, that of a listed instance, or none.

    Raises:
        InputError: both are given, the rate is not within (0, 1e5], or the instance is not listed.
    """
    if rate_usd_per_h is not None and instance is not None:
        raise InputError("--rate-usd-per-h and --instance are both given; pass one of them")
    if rate_usd_per_h is not None:
        if not (math.isfinite(rate_usd_per_h) and 0 < rate_usd_per_h <= MAX_RATE_USD_PER_H):
            raise InputError(
                f"--rate-usd-per-h must be above 0 and at most {MAX_RATE_USD_PER_H:g}, "
                f"got {rate_usd_per_h:g}"
            )
        return CostRate(rate_usd_per_h, "given on the command line", "--rate-usd-per-h", None)
    if instance is None:
        return None
    listed = prices()
    if instance not in listed:
        raise InputError(
            f"--instance {instance!r} is not listed; use one of: {', '.join(listed)}, "
            "or pass --rate-usd-per-h"
        )
    return listed[instance]


def with_cost(arm: Arm, rate: CostRate | None, train_samples: int) -> Arm:
    """`arm` with its money figures.

    An epoch costs `train_samples` at the arm's timed throughput; the total is the training time of
    its run, validation excluded. What cannot be said is None with a reason.
    """
    missing = dict(arm.missing)
    if rate is None:
        missing |= {"cost_usd_per_epoch": NO_RATE, "cost_usd_total": NO_RATE}
        return dataclasses.replace(arm, missing=missing)
    usd_per_s = rate.rate_usd_per_h / _SECONDS_PER_H
    per_epoch = total = None
    if arm.throughput_samples_per_s is None:
        missing["cost_usd_per_epoch"] = "the arm was not timed"
    else:
        per_epoch = train_samples / arm.throughput_samples_per_s.estimate * usd_per_s
    if arm.train_time_s is None:
        missing["cost_usd_total"] = missing.get("train_time_s", "the arm was not trained")
    else:
        total = arm.train_time_s * usd_per_s
    return dataclasses.replace(
        arm, cost_usd_per_epoch=per_epoch, cost_usd_total=total, missing=missing
    )
