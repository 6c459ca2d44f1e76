"""The evidence behind a plan: what was held against float64 and what was timed. Records only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One tensor of a candidate beside float64."""

    tensor: str
    """ "output", "gradient of input", "gradient of weight" or "gradient of bias", for instance."""
    error: float
    """Largest absolute difference over the reference's largest value."""
    torch_error: float
    """The same of the plain modules."""
    bound: float

    @property
    def passed(self) -> bool:
        """Is the error within the bound (a NaN is not)?"""
        return self.error <= self.bound


@dataclass(frozen=True)
class Verification:
    """What was held against float64 at one place."""

    checks: tuple[Check, ...]
    tie_share: float = 0.0
    """Of the outputs, how many lay too near a tie to have a gradient sent into them."""

    @property
    def passed(self) -> bool:
        """Are all tensors within their bounds?"""
        return all(check.passed for check in self.checks)

    @property
    def worst(self) -> Check:
        """The check nearest to its bound, or furthest beyond it."""
        return max(self.checks, key=_excess)

    def __str__(self) -> str:
        worst = self.worst
        return (
            f"{worst.tensor} off by {worst.error:.2g} of its largest value (bound {worst.bound:.2g}, "
            f"PyTorch {worst.torch_error:.2g})"
        )


def _excess(check: Check) -> float:
    share = check.error / check.bound if check.bound else math.inf
    return math.inf if math.isnan(share) else share


@dataclass(frozen=True)
class Measurement:
    """Paired, interleaved windows of the plain and of the optimized form."""

    torch_time_s: float
    """Seconds of one run of the plain form, geometric mean."""
    time_s: float
    """Seconds of one run of the optimized form."""
    ratio: float
    """Geometric mean of the paired ratios, plain over optimized: above 1 is faster."""
    low: float
    """Lower end of its 95 % interval."""
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.ratio:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Fingerprint:
    """What measurements hold for: this machine and software, this model, these inputs."""

    environment: Mapping[str, str]
    """Machine and versions: where they differ, times may, and the selection is measured anew."""
    model: str
    """Hash of the module tree's names and classes and of the state's names, shapes and dtypes."""
    inputs: str
    """Shapes, dtypes and devices of the example inputs."""

    def changes(self, now: Fingerprint) -> list[str]:
        """What of the environment is another now, in words."""
        return [
            f"{name} was {self.environment.get(name, 'unknown')}, is {value}"
            for name, value in now.environment.items()
            if self.environment.get(name) != value
        ]
