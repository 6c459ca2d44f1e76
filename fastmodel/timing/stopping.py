"""When to stop timing: the interval is narrow enough, or the budget is spent.

The rule looks at the width of the interval alone, never at where it lies, so stopping early favours
neither arm. But each look is a chance to stop on an interval that is narrow by luck, and such intervals
hold the truth too seldom. So it looks after every fourth more, not after every pair; two looks in a row must
agree; and with n pairs the width must be below 1 - 2 / sqrt(n) of what is wanted. With that, intervals at
the stop hold the truth as often as others do: benchmarks/studies/coverage.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fastmodel.errors import InputError
from fastmodel.timing.statistics import bootstrap_interval, half_width

_LOOK_RESAMPLES = 2_000
_LOOK_GROWTH = 1.25
_CAUTION = 2.0


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
        if self.half_width is not None:
            looks = self._looks(count)
            if (
                len(looks) > 1
                and looks[-1] == count
                and all(map(self._is_narrow, (ratios[: looks[-2]], ratios)))
            ):
                return f"the interval is narrow enough: within {self.half_width * 100:g} %"
        if count >= self.most:
            return f"all {count} pairs are timed"
        if self.half_width is None:
            return f"all {self.pairs} pairs are timed"
        if self.budget_s is not None and elapsed_s >= self.budget_s:
            return f"the budget of {self.budget_s:g} s is spent"
        return None

    def _looks(self, count: int) -> list[int]:
        """The numbers of pairs up to `count` after which the rule looks."""
        looks = [self.pairs]
        while (after := math.ceil(looks[-1] * _LOOK_GROWTH)) <= count:
            looks.append(after)
        return looks

    def _is_narrow(self, ratios: Sequence[float]) -> bool:
        assert self.half_width is not None
        wanted = self.half_width * (1 - _CAUTION / math.sqrt(len(ratios)))
        return half_width(*bootstrap_interval(ratios, _LOOK_RESAMPLES)) <= wanted
