"""The time that a measured selection may take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """Seconds to spend, counted from when it was made."""

    def __init__(self, budget_s: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget_s = budget_s
        self._clock = clock
        self._start_s = clock()

    def spent_s(self) -> float:
        """Seconds gone."""
        return self._clock() - self._start_s

    def left_s(self) -> float:
        """Seconds to go, at least 0."""
        return max(0.0, self.budget_s - self.spent_s())

    def part(self, part_s: float) -> Budget:
        """A budget of that many seconds from now, or of what is left of this one."""
        return Budget(min(part_s, self.left_s()), self._clock)
