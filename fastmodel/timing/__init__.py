"""Time that can be trusted: a synchronised clock, interleaved windows, intervals by bootstrap."""

from fastmodel.timing.clock import now_s, synchronize
from fastmodel.timing.paired import Sample, interleave, paired_ratios
from fastmodel.timing.statistics import (
    RESAMPLES,
    Estimate,
    bootstrap_interval,
    geometric_mean,
    mean_ratio,
)

__all__ = [
    "RESAMPLES",
    "Estimate",
    "Sample",
    "bootstrap_interval",
    "geometric_mean",
    "interleave",
    "mean_ratio",
    "now_s",
    "paired_ratios",
    "synchronize",
]
