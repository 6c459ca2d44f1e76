"""Time that can be trusted: a synchronised clock, interleaved windows, intervals by bootstrap."""

from fastmodel.timing.clock import now_s, synchronize
from fastmodel.timing.paired import Sample, interleave, paired_ratios
from fastmodel.timing.statistics import (
    RESAMPLES,
    Estimate,
    block_length,
    bootstrap_interval,
    geometric_mean,
    half_width,
    mean_of_groups,
    mean_ratio,
    quotient,
)
from fastmodel.timing.steady import Steadiness, steadiness
from fastmodel.timing.stopping import Stopping

__all__ = [
    "RESAMPLES",
    "Estimate",
    "Sample",
    "Steadiness",
    "Stopping",
    "block_length",
    "bootstrap_interval",
    "geometric_mean",
    "half_width",
    "interleave",
    "mean_of_groups",
    "mean_ratio",
    "now_s",
    "paired_ratios",
    "quotient",
    "steadiness",
    "synchronize",
]
