"""Geometric means and their 95 % intervals.

Times of one arm multiply (a slow neighbour makes everything, say, 5 % slower), so ratios are
averaged by their geometric mean. The interval is the percentile bootstrap over the samples:
resample them with replacement, take the mean each time, and cut 2.5 % off both ends. The seed is
fixed, so the same samples always give the same interval.

Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastmodel.errors import InputError

RESAMPLES = 10_000
_SEED = 20_240_229


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def geometric_mean(values: Sequence[float]) -> float:
    """exp(mean(log(values))).

    Raises:
        InputError: no values, or one that is not finite and above 0.
    """
    return float(np.exp(_logs(values).mean()))


def bootstrap_interval(values: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the geometric mean; one value gives a point.

    Raises:
        InputError: no values, or one that is not finite and above 0.
    """
    logs = _logs(values)
    picks = np.random.default_rng(_SEED).integers(0, logs.size, size=(resamples, logs.size))
    low, high = np.exp(np.quantile(logs[picks].mean(axis=1), [0.025, 0.975]))
    return float(low), float(high)


def mean_ratio(ratios: Sequence[float], resamples: int = RESAMPLES) -> Estimate:
    """The geometric mean of `ratios` (or rates, or times) with its interval."""
    low, high = bootstrap_interval(ratios, resamples)
    return Estimate(geometric_mean(ratios), low, high)


def _logs(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("statistics: no samples; measure at least one window")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise InputError(f"statistics: samples must be finite and above 0, got {list(values)}")
    return np.log(array)
