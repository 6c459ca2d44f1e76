"""How long the calling thread slept of its own will: off the CPU, but not for want of one.

Linux counts for each thread the time on a CPU and the time runnable but waiting for one; the rest was sleep.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path


class SleepClock:
    """A clock of the calling thread's sleep, in seconds; only differences mean anything."""

    def __init__(self) -> None:
        self._path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self.has_run_queue = self._path.exists()
        """Without it, time in which other programs held the CPU counts as sleep."""

    def now_s(self) -> float:
        """Wall time less CPU time, less time waiting for a CPU."""
        if not self.has_run_queue:
            return time.perf_counter() - time.thread_time()
        wall_s = time.perf_counter()
        on_cpu, waiting, _ = self._path.read_text().split()
        return wall_s - (int(on_cpu) + int(waiting)) / 1e9
