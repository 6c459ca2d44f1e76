"""The CPU side through psutil: this process, its data-loader workers, the machine."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from fastmodel.harness.telemetry.source import Quantity

_SLOW_EVERY_S = 1.0
"""What costs most and changes least is read this often: which children there are, memory left, the clock."""
CHILDREN = ("children_cpu_cores", "children_memory_bytes", "children")


class HostSource:
    """Cores in use and memory; the children are counted apart, data-loader workers among them."""

    name = "psutil"

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.missing: dict[str, str] = {}
        self.facts: dict[str, str] = {
            "cpu_cores": "cores busy on average: CPU time over wall time, not a share of the machine"
        }
        names = ["machine_cpu_percent", "process_cpu_cores", "process_memory_bytes"]
        names += [*CHILDREN, "memory_available_bytes"]
        self._has_clock = self._clock_mhz() is not None
        if self._has_clock:
            names.append("cpu_clock_mhz")
        else:
            self.missing["cpu_clock_mhz"] = (
                "the system does not tell; virtual machines often hide it"
            )
        self.quantities: Sequence[Quantity] = [Quantity(name) for name in names]
        self._children: dict[int, psutil.Process] = {}
        self._looked_s = float("-inf")
        self._last: tuple[float, float] | None = None
        self._child_times_s: dict[int, float] = {}

    def start(self) -> None:
        """Begin to count CPU time."""
        psutil.cpu_percent(None)
        self._last = None
        self._child_times_s = {}

    def sample(self) -> Mapping[str, float]:
        """Rates are those since the sample before."""
        now_s = time.perf_counter()
        used = self._process.cpu_times()
        used_s = used.user + used.system
        found: dict[str, float] = {
            "machine_cpu_percent": psutil.cpu_percent(None),
            "process_memory_bytes": self._process.memory_info().rss,
        }
        if now_s - self._looked_s >= _SLOW_EVERY_S:
            self._looked_s = now_s
            self._find_children()
            found["memory_available_bytes"] = psutil.virtual_memory().available
            if self._has_clock and (clock := self._clock_mhz()) is not None:
                found["cpu_clock_mhz"] = clock
        children_s, memory_bytes, count = self._read_children()
        found["children_memory_bytes"], found["children"] = memory_bytes, count
        if self._last is not None:
            elapsed_s = max(now_s - self._last[0], 1e-9)
            found["process_cpu_cores"] = (used_s - self._last[1]) / elapsed_s
            found["children_cpu_cores"] = children_s / elapsed_s
        self._last = (now_s, used_s)
        return found

    def finish(self) -> Mapping[str, float | None]:
        """Nothing of the whole window."""
        return {}

    def _find_children(self) -> None:
        found = ((pid, self._child(pid)) for pid in _descendants())
        self._children = {pid: child for pid, child in found if child is not None}

    def _read_children(self) -> tuple[float, int, int]:
        """CPU seconds of the children since the sample before, their memory, how many there are."""
        used_s, memory_bytes, count = 0.0, 0, 0
        for pid, child in self._children.items():
            try:
                times = child.cpu_times()
                memory_bytes += child.memory_info().rss
            except psutil.Error:  # it has ended
                continue
            total_s = times.user + times.system
            used_s += total_s - self._child_times_s.get(pid, total_s)
            self._child_times_s[pid] = total_s
            count += 1
        return used_s, memory_bytes, count

    def _child(self, pid: int) -> psutil.Process | None:
        try:
            return self._children.get(pid) or psutil.Process(pid)
        except psutil.Error:
            return None

    @staticmethod
    def _clock_mhz() -> float | None:
        try:
            clock = psutil.cpu_freq()
        except (OSError, NotImplementedError, RuntimeError):
            return None
        return clock.current if clock is not None and clock.current > 0 else None


def _descendants() -> list[int]:
    """Every process below this one.

    Linux lists the children of a thread; asking psutil would read every process of the machine.
    """
    tasks = Path("/proc/self/task")
    if not (tasks / str(psutil.Process().pid) / "children").exists():
        return [child.pid for child in psutil.Process().children(recursive=True)]
    found: list[int] = []
    open_paths = [tasks]
    while open_paths:
        try:
            pids = [int(p) for t in open_paths.pop().glob("*/children") for p in _words(t)]
        except OSError:
            continue
        found += pids
        open_paths += [Path(f"/proc/{pid}/task") for pid in pids]
    return found


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:  # the thread has ended
        return []
