"""Memory and energy of a stretch of work, from whatever this machine lets us read.

Memory: on the CPU the highest resident size of the process above the level before the arm was built,
sampled every 20 ms (memory that an earlier arm freed is first given back to the system); on CUDA
`torch.cuda.max_memory_allocated` above the same level. Energy: the GPU's counter through NVML, the CPU
packages' through RAPL. What cannot be read is None with a reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import psutil
import torch

from fastmodel.harness.telemetry.rapl import POWERCAP, packages
from fastmodel.harness.telemetry_records import Telemetry

_PERIOD_S = 0.02


class EnergySource(Protocol):
    """A counter of Joules since some time in the past."""

    name: str

    def read_j(self) -> float:
        """The counter now; never falls. Called at least every few minutes, so that wraps are seen."""
        ...


@dataclass(frozen=True)
class Reading:
    """What was read of one stretch of work."""

    peak_memory_bytes: int | None
    energy_j: float | None
    energy_source: str | None
    missing: dict[str, str] = field(default_factory=dict)
    telemetry: Telemetry | None = None
    """The same stretch over time, where it was sampled."""


class NvmlEnergy:
    """The energy counter of one GPU."""

    def __init__(self, device: torch.device) -> None:
        from fastmodel.harness.telemetry.gpu import gpu_source

        self._gpu = gpu_source(device)
        self.name = f"NVML {self._gpu.facts['gpu_uuid']}"
        self.read_j()

    def read_j(self) -> float:
        return self._gpu.energy_j()


def energy_sources(device: str, powercap: Path = POWERCAP) -> tuple[list[EnergySource], str | None]:
    """The counters that can be read for work on `device`, and why one is missing.

    For CUDA the GPU's counter is needed; the CPU's are added where readable.
    """
    sources: list[EnergySource] = []
    if torch.device(device).type == "cuda":
        try:
            sources.append(NvmlEnergy(torch.device(device)))
        except Exception as error:  # pynvml's errors share no base with the driver's absence
            return [], f"NVML: {' '.join(str(error).split())}"
    found, reason = packages(powercap)
    sources += found
    return sources, None if sources else reason


class Meter:
    """Reads memory and energy between `with Meter(...) as meter:` and its end; then `meter.reading`."""

    def __init__(self, device: str, sources: Sequence[EnergySource], reason: str | None) -> None:
        self._device = torch.device(device)
        self._sources = list(sources)
        self._missing = {} if reason is None else {"energy_j": reason}
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="telemetry", daemon=True)
        self.reading: Reading | None = None

    def __enter__(self) -> Meter:
        give_back_memory()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            self._level_bytes = torch.cuda.memory_allocated(self._device)
        else:
            self._level_bytes = self._process.memory_info().rss
        self._peak_bytes = self._level_bytes
        self._start_j = [source.read_j() for source in self._sources]
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._tick()
        if self._device.type == "cuda":
            self._peak_bytes = torch.cuda.max_memory_allocated(self._device)
        used_j = [s.read_j() - start for s, start in zip(self._sources, self._start_j, strict=True)]
        self.reading = Reading(
            peak_memory_bytes=self._peak_bytes - self._level_bytes,
            energy_j=sum(used_j) if used_j else None,
            energy_source=" + ".join(s.name for s in self._sources) or None,
            missing=self._missing,
        )

    def _sample(self) -> None:
        ticks_per_energy_read = round(60 / _PERIOD_S)  # RAPL wraps in minutes at the soonest
        tick = 0
        while not self._stop.wait(_PERIOD_S):
            self._tick()
            tick += 1
            if tick % ticks_per_energy_read == 0:
                for source in self._sources:
                    source.read_j()

    def _tick(self) -> None:
        if self._device.type != "cuda":
            self._peak_bytes = max(self._peak_bytes, self._process.memory_info().rss)


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc)."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
