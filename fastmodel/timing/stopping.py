"""When to stop timing: the interval is narrow enough, or the budget is spent.

The rule looks at the width of the interval alone, never at where it lies, so stopping early favours
neither arm. It looks after every eighth more, not after every pair: each look is a chance to stop on an
interval that is narrow by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastmodel.errors import InputError
from fastmodel.timing.statistics import bootstrap_interval, half_width

_LOOK_RESAMPLES = 2_000


@dataclass(frozen=True)
class Stopping:
    """Time at least `pairs`; go on until the half-width is reached, or a budget is spent.

    Args:
        pairs: the fewest pairs, at least 1.
        max_pairs: the most; equal to `pairs` for a fixed number.
        half_width: wanted half-width of the 95 % interval relative to the ratio, 0.01 for 1 %; None:
            `pairs` are enough.
        budget_s: seconds after which no new pair begins, once there are `pairs`; None: no limit.

    Raises:
        InputError: a number that makes no sense.
    """

    pairs: int
    max_pairs: int | None = None
    half_width: float | None = None
    budget_s: float | None = None

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.most < self.pairs:
            raise InputError(f"stopping: {self.pairs} to {self.most} pairs; need 1 <= pairs <= max")
        if self.half_width is not None and not 0 < self.half_width < 1:
            raise InputError(f"stopping: half-width must be within (0, 1), got {self.half_width}")

    @property
    def most(self) -> int:
        """The most pairs that may be timed."""
        return self.pairs if self.max_pairs is None else self.max_pairs

    def reason(self, ratios: Sequence[float], elapsed_s: float) -> str | None:
        """Why to stop now, in words for the report; None to go on."""
        count = len(ratios)
        if count < self.pairs:
            return None
        if self.half_width is not None and self._looks_at(count):
            width = half_width(*bootstrap_interval(ratios, _LOOK_RESAMPLES))
            if width <= self.half_width:
                wanted = f"{self.half_width * 100:g} %"
                return f"the interval is narrow enough: half-width {width * 100:.2g} % of {wanted}"
        if count >= self.most:
            return f"all {count} pairs are timed"
        if self.half_width is None:
            return f"all {self.pairs} pairs are timed"
        if self.budget_s is not None and elapsed_s >= self.budget_s:
            return f"the budget of {self.budget_s:g} s is spent"
        return None

    def _looks_at(self, count: int) -> bool:
        look = self.pairs
        while look < count:
            look += max(1, look // 8)
        return look == count or count == self.most
