"""Geometric means and their 95 % intervals, for samples that remember one another.

Times of one arm multiply (a slow neighbour makes everything, say, 5 % slower), so ratios are
averaged by their geometric mean. A burst of somebody else's work may double a single window: what lies
further from the median than 3 standard deviations of the bulk (1.4826 times the median distance from the
median each) counts as that far and no further (a Winsorized mean).

Samples of one run are autocorrelated: a neighbour stays for several windows, and turning the order of the
arms around every round makes the ratios alternate. So the interval is a circular block bootstrap: blocks
of neighbouring samples are drawn with replacement, the mean taken each time, and 2.5 % cut off both ends.
With few samples such an interval is too narrow, for reasons that can be computed: blocks see less than
all of the autocorrelation, and the spread is itself only estimated; and bounded samples vary less than their
mean does. It is stretched about the mean by

    sqrt(var of the mean under AR(1) / var that the blocks see of it)
        * t(df) / t(infinity) / share of samples not bounded

where the AR(1) coefficient is the one of the samples, corrected for its bias. How often the intervals
hold the truth is measured: benchmarks/studies/coverage.py. The seed is fixed, so the same samples always give
the same interval.

Sources: Politis and Romano, A circular block-resampling procedure for stationary data (1992); block
length for AR(1): Carlstein, Annals of Statistics 14 (1986); t quantile: Abramowitz and Stegun 26.7.5; bounds
by the median distance, and the variance under them: Huber, Robust Statistics (1981), ch. 5 and 3.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastmodel.errors import InputError

RESAMPLES = 10_000
_SEED = 20_240_229
_Z = 1.959964
_FEWEST_FOR_AUTOCORRELATION = 6
_FEWEST_DEGREES = 2.0
_FEWEST_FOR_BOUNDS = 6
_BOUND = 3 * 1.4826
_MOST_AUTOCORRELATION = 0.9
_LEAST_AUTOCORRELATION = -0.6


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
    """95 % block bootstrap interval of `mean_ratio`; `values` in the order of measurement.

    One value gives a point.

    Raises:
        InputError: no values, or one that is not finite and above 0.
    """
    estimate = mean_ratio(values, resamples)
    return estimate.low, estimate.high


def mean_ratio(ratios: Sequence[float], resamples: int = RESAMPLES) -> Estimate:
    """The geometric mean of `ratios` (or rates, or times), outliers bounded, with its interval.

    Raises:
        InputError: no values, or one that is not finite and above 0.
    """
    found = _logs(ratios)
    logs = _bounded(found)
    mean = logs.mean()
    value = float(np.exp(mean))
    if logs.size == 1:
        return Estimate(value, float(ratios[0]), float(ratios[0]))
    rho = autocorrelation(logs)
    length = _block_length(logs.size, rho)
    low, high = np.quantile(_block_means(logs, length, resamples), [0.025, 0.975])
    stretch = _blocks_blindness(logs.size, length, rho) * _t(_degrees(logs.size, rho)) / _Z
    stretch /= float((logs == found).mean())
    low, high = np.exp([mean - stretch * (mean - low), mean + stretch * (high - mean)])
    return Estimate(value, float(low), float(high))


def mean_of_groups(groups: Sequence[Sequence[float]]) -> Estimate:
    """The geometric mean of ratios that were taken in groups, each of which has a value of its own.

    The samples are the groups' means (`mean_ratio`): what is alike within a group and differs between groups
    is in the interval, Student's t over the groups, however many samples each has.

    Raises:
        InputError: fewer than three groups, or one that `mean_ratio` refuses.
    """
    if len(groups) < 3:
        raise InputError(f"statistics: {len(groups)} groups tell no spread; take at least three")
    means = np.array([_bounded(_logs(group)).mean() for group in groups])
    mean = means.mean()
    reach = _t(len(groups) - 1) * means.std(ddof=1) / math.sqrt(len(groups))
    value, low, high = np.exp([mean, mean - reach, mean + reach])
    return Estimate(float(value), float(low), float(high))


def quotient(numerator: Estimate, denominator: Estimate) -> Estimate:
    """`numerator` / `denominator` of two runs that know nothing of each other.

    Half-widths are those of logarithms, and add as the sides of a right triangle do.
    """
    value = numerator.value / denominator.value
    down = math.hypot(
        math.log(numerator.value / numerator.low), math.log(denominator.high / denominator.value)
    )
    up = math.hypot(
        math.log(numerator.high / numerator.value), math.log(denominator.value / denominator.low)
    )
    return Estimate(value, value * math.exp(-down), value * math.exp(up))


def half_width(low: float, high: float) -> float:
    """Half the width of a ratio's interval, relative to the ratio: 0.01 is one per cent."""
    return math.sqrt(high / low) - 1


def block_length(values: Sequence[float]) -> int:
    """How many neighbouring samples `bootstrap_interval` draws together."""
    logs = _bounded(_logs(values))
    return _block_length(logs.size, autocorrelation(logs))


def _bounded(logs: np.ndarray) -> np.ndarray:
    """Outliers brought in to 3 standard deviations of the bulk; fewer than six samples have no bulk."""
    if logs.size < _FEWEST_FOR_BOUNDS:
        return logs
    middle = np.median(logs)
    reach = _BOUND * np.median(np.abs(logs - middle))
    return logs if reach == 0 else np.clip(logs, middle - reach, middle + reach)


def autocorrelation(series: np.ndarray) -> float:
    """Lag-1 autocorrelation, corrected for its bias of -(1 + 3 rho) / n; 0 for fewer than six.

    Kept within -0.6 and 0.9: beyond, this many samples could not tell.
    """
    count = series.size
    around = series - series.mean()
    square = float(around @ around)
    if count < _FEWEST_FOR_AUTOCORRELATION or square == 0:
        return 0.0
    raw = float(around[1:] @ around[:-1]) / square
    corrected = (count * raw + 1) / (count - 3)
    return min(_MOST_AUTOCORRELATION, max(_LEAST_AUTOCORRELATION, corrected))


def _block_length(count: int, rho: float) -> int:
    """(sqrt(6) rho / (1 - rho^2))^(2/3) n^(1/3), at most a quarter of the samples."""
    wanted = (math.sqrt(6) * abs(rho) / (1 - rho * rho)) ** (2 / 3) * count ** (1 / 3)
    return int(min(max(1, round(wanted)), max(1, count // 4)))


def _block_means(logs: np.ndarray, length: int, resamples: int) -> np.ndarray:
    """Means of `resamples` series as long as `logs`, made of blocks that may wrap around its end."""
    count = logs.size
    blocks = math.ceil(count / length)
    rest = count - (blocks - 1) * length  # what the last block must still give
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([logs, logs]))])
    whole = sums[length : length + count] - sums[:count]
    last = sums[rest : rest + count] - sums[:count]
    starts = np.random.default_rng(_SEED).integers(0, count, size=(resamples, blocks))
    return (whole[starts[:, :-1]].sum(axis=1) + last[starts[:, -1]]) / count


def _blocks_blindness(count: int, length: int, rho: float) -> float:
    """True standard error of an AR(1) mean over the one that the bootstrap is expected to see."""
    rho = round(rho, 2)  # so that few values need be kept
    sums = _variances_of_sums(max(count, length), rho)
    # Blocks that wrap around the end are made of two pieces far apart.
    wrapped = sum(sums[piece] + sums[length - piece] for piece in range(1, length))
    block = ((count - length + 1) * sums[length] + wrapped) / count
    seen = (block - length * length * sums[count] / count**2) / (count * length)
    return math.sqrt(sums[count] / count**2 / seen)


@functools.lru_cache(maxsize=512)
def _variances_of_sums(count: int, rho: float) -> tuple[float, ...]:
    """Variance of the sum of 0, 1, ... `count` neighbours of an AR(1) series of variance 1."""
    variances, covariance = [0.0], 0.0
    for _ in range(count):
        # Adding a neighbour adds its variance and twice its covariance with those before.
        variances.append(variances[-1] + 1 + 2 * covariance)
        covariance = rho * (covariance + 1)
    return tuple(variances)


def _degrees(count: int, rho: float) -> float:
    """Degrees of freedom: two thirds of the independent samples that these are worth, less one."""
    worth = min(count, count * (1 - rho) / (1 + rho))
    return max(_FEWEST_DEGREES, worth / 1.5 - 1)


def _t(degrees: float) -> float:
    """The 97.5 % quantile of Student's t, within 1 % from 2 degrees of freedom on."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def _logs(values: Sequence[float]) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise InputError("statistics: no samples; measure at least one window")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise InputError(f"statistics: samples must be finite and above 0, got {list(values)}")
    return np.log(array)
