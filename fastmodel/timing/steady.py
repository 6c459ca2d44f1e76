"""Has a series of window times come to rest, from where on, or never?

A series rests from window k on if what follows neither begins apart from where it ends nor shows a
trend, or one too small to matter. It begins apart if the median of its first four windows is off that of
its last half by more than the scatter of those (three times 1.48 median absolute deviations). A trend
is seen by the Mann-Kendall test, which asks whether later windows tend to be slower (or faster) than
earlier ones, with its variance enlarged for autocorrelated samples; its size is the Theil-Sen slope, the
median over all pairs of windows, over the whole length. Every start in the first half is tried, so that
warming up costs at most half of the windows, and "never" is a possible answer.

Sources: Mann, Econometrica 13 (1945); Sen, JASA 63 (1968); Hamed and Rao, J. Hydrology 204 (1998).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastmodel.errors import InputError
from fastmodel.timing.statistics import autocorrelation

FEWEST_WINDOWS = 16
"""Of fewer the test could not call even a straight line a trend."""

TOLERATED_DRIFT = 0.03
"""A change over the whole series below 3 % is rest: pairing cancels it."""

_OPENING = 4
_MOST_AUTOCORRELATION = 0.6
_CRITICAL_Z = 2.575829  # two-sided, 1 %

STEADY, NEVER, TOO_FEW = "steady", "never steady", "too few windows"


@dataclass(frozen=True)
class Steadiness:
    """`verdict`: "steady", "never steady" or "too few windows".

    `first` is the window that rest begins at (None without rest), `drift` the relative change of the time
    of a window from the first of the judged windows to the last: 0.05 is 5 % slower at the end. The
    judged windows are those from `first` on, or all.
    """

    verdict: str
    first: int | None
    drift: float | None


def steadiness(times_s: Sequence[float]) -> Steadiness:
    """Judge the windows of one arm, in the order of measurement.

    Raises:
        InputError: a time is not finite and above 0.
    """
    times = np.asarray(times_s, dtype=np.float64)
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise InputError(f"steadiness: times must be finite and above 0, got {list(times_s)}")
    if times.size < FEWEST_WINDOWS:
        return Steadiness(TOO_FEW, None, None)
    logs = np.log(times)
    for first in range(min(times.size // 2, times.size - FEWEST_WINDOWS) + 1):
        rest = logs[first:]
        drift = _drift(rest)
        has_trend = abs(drift) > TOLERATED_DRIFT and _has_trend(rest)
        if not has_trend and not _begins_apart(rest):
            return Steadiness(STEADY, first, drift)
    return Steadiness(NEVER, None, _drift(logs))


def _begins_apart(logs: np.ndarray) -> bool:
    end = logs[logs.size // 2 :]
    level = np.median(end)
    scatter = 1.4826 * np.median(np.abs(end - level))
    apart = abs(np.median(logs[:_OPENING]) - level)
    return bool(apart > max(math.log1p(TOLERATED_DRIFT), 3 * scatter))


def _drift(logs: np.ndarray) -> float:
    return math.expm1(_slope(logs) * (logs.size - 1))


def _slope(series: np.ndarray) -> float:
    """Theil-Sen: the median slope over all pairs."""
    early, late = np.triu_indices(series.size, k=1)
    return float(np.median((series[late] - series[early]) / (late - early)))


def _has_trend(series: np.ndarray) -> bool:
    count = series.size
    early, late = np.triu_indices(count, k=1)
    score = float(np.sign(series[late] - series[early]).sum())
    rho = autocorrelation(series - _slope(series) * np.arange(count))
    rho = min(_MOST_AUTOCORRELATION, max(0.0, rho))  # a bent trend leaves a smooth rest
    variance = count * (count - 1) * (2 * count + 5) / 18 * (1 + rho) / (1 - rho)
    return abs(score) - 1 > _CRITICAL_Z * math.sqrt(variance)
