"""What disturbed a timed window: read between windows, kept beside the window, never a reason to drop it.

A disturbed window stays in every figure: whoever drops slow windows has chosen their result. The marks
say why a window may be slow, and the report shows the ratio without the marked pairs as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

_MOST_STOLEN = 0.05
_MOST_BY_OTHERS = 0.15
_LONGEST_GAP_S = 0.5
_FEWEST_TICKS = 3.0 / 100  # shares below three ticks of the kernel's clock say nothing


@dataclass(frozen=True)
class Snapshot:
    """Counters that only grow; what this machine does not tell is left out of `counters`."""

    time_s: float
    wall_s: float
    awake_s: float
    cpu_s: Mapping[str, float]
    """Seconds over all CPUs: "busy" (anyone's), "stolen" (by the hypervisor), "own" (this process's)."""
    cpus: int
    counters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sources:
    """Where the counters are read; the tests bring their own folders."""

    cgroup: Path = Path("/sys/fs/cgroup/cpu.stat")
    vmstat: Path = Path("/proc/vmstat")
    cpus: Path = Path("/sys/devices/system/cpu")


class Conditions:
    """The state of the machine, read at the edges of windows.

    Args:
        sources: where to read.
        children: also count the processor time of child processes as this job's own.
    """

    def __init__(self, sources: Sources | None = None) -> None:
        self._sources = sources or Sources()
        self._process = psutil.Process()
        # Paths are looked for once: reading happens between windows and should be short.
        pattern = "cpu[0-9]*/thermal_throttle/core_throttle_count"
        self._throttle_counts = sorted(self._sources.cpus.glob(pattern))

    def read(self) -> Snapshot:
        """The counters now."""
        times = psutil.cpu_times()
        busy_s = sum(
            getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq")
        )
        return Snapshot(
            time_s=time.perf_counter(),
            wall_s=time.time(),
            awake_s=time.clock_gettime(_BOOT_CLOCK) - time.monotonic(),
            cpu_s={"busy": busy_s, "stolen": getattr(times, "steal", 0.0), "own": self._own_s()},
            cpus=psutil.cpu_count() or 1,
            counters=self._counters(),
        )

    def _own_s(self) -> float:
        total = 0.0
        for process in (self._process, *self._process.children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += times.user + times.system
        return total

    def _counters(self) -> dict[str, float]:
        found: dict[str, float] = {}
        quota = _fields(self._sources.cgroup)
        if "throttled_usec" in quota:
            found["quota_s"] = quota["throttled_usec"] / 1e6
        paging = _fields(self._sources.vmstat)
        if "pswpin" in paging:
            found["swapped_pages"] = paging["pswpin"] + paging.get("pswpout", 0.0)
        heat = [_number(path) for path in self._throttle_counts]
        if heat:
            found["heat_events"] = sum(heat)
        return found


_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def marks(before: Snapshot, after: Snapshot) -> list[str]:
    """What happened between two snapshots that may have slowed a window; empty where nothing did."""
    elapsed_s = after.time_s - before.time_s
    room_s = elapsed_s * after.cpus
    found = []

    def grown(name: str) -> float:
        return after.counters.get(name, 0.0) - before.counters.get(name, 0.0)

    stolen_s = after.cpu_s["stolen"] - before.cpu_s["stolen"]
    if stolen_s > max(_MOST_STOLEN * room_s, _FEWEST_TICKS):
        found.append(f"descheduled: the hypervisor took {stolen_s / room_s:.0%} of the CPUs")
    own_s = after.cpu_s["own"] - before.cpu_s["own"]
    others_s = after.cpu_s["busy"] - before.cpu_s["busy"] - own_s
    if others_s > max(_MOST_BY_OTHERS * room_s, _FEWEST_TICKS):
        found.append(f"descheduled: other processes took {others_s / room_s:.0%} of the CPUs")
    if grown("quota_s") > 0.01 * elapsed_s:
        found.append(f"throttled: the CPU quota held it back for {grown('quota_s'):.2f} s")
    if grown("heat_events") > 0:
        found.append(f"throttled: too hot, {grown('heat_events'):.0f} times")
    if grown("swapped_pages") > 0:
        found.append(f"swapping: {grown('swapped_pages'):.0f} pages moved")
    slept_s = after.awake_s - before.awake_s
    if slept_s > _LONGEST_GAP_S:
        found.append(f"the machine slept for {slept_s:.1f} s")
    set_by_s = (after.wall_s - before.wall_s) - elapsed_s - max(0.0, slept_s)
    if abs(set_by_s) > _LONGEST_GAP_S:
        found.append(
            f"the system's clock was set by {set_by_s:+.1f} s; times are from another clock"
        )
    return found


Reader = Callable[[], Snapshot]


def _fields(path: Path) -> dict[str, float]:
    """The "name number" lines of a file; nothing where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: float(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0
