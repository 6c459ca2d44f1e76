"""One NVIDIA GPU through NVML (nvidia-ml-py): what it did, drew and was held back by.

The device is found by its UUID, which names the same card whatever CUDA_VISIBLE_DEVICES hides or reorders.
Every quantity is asked for once at the start: what the driver, the container or the card refuses is left out
with the driver's reason, and is never 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml
import torch

from fastmodel.harness.telemetry.gpm import Gpm
from fastmodel.harness.telemetry.source import Quantity

BUSY = (
    "share of the time in which any kernel ran on the GPU; says nothing of how much of the GPU it used:"
    " that is sm_activity and sm_occupancy"
)

_TRANSIENT = (
    pynvml.NVML_ERROR_TIMEOUT,
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_IN_USE,
    pynvml.NVML_ERROR_NOT_READY,
)
_POWER = (
    pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
)
_THERMAL = (
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
)
_PCIE_EVERY_S = 1.0
"""A reading of the PCIe counters blocks for 20 ms each way."""


@dataclass
class _Reader:
    """A call of NVML and the quantities that it gives."""

    quantities: tuple[Quantity, ...]
    read: Callable[[Any], tuple[float, ...]]
    every_s: float = 0.0
    last_s: float = float("-inf")


class GpuSource:
    """One GPU.

    Args:
        uuid: "GPU-..." or "MIG-...".
        pid: the process whose memory on the GPU is told apart; by default this one.

    Raises:
        pynvml.NVMLError: there is no driver, no such device, or no permission to open it.
    """

    name = "nvml"

    def __init__(self, uuid: str, pid: int | None = None) -> None:
        pynvml.nvmlInit()
        self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        self._pid = os.getpid() if pid is None else pid
        self._start_s = time.perf_counter()
        self.facts = {"gpu_uuid": uuid, "gpu_busy_percent": BUSY}
        try:
            self.facts["gpu_name"] = pynvml.nvmlDeviceGetName(self._handle)
        except pynvml.NVMLError as error:
            self.facts["gpu_name"] = f"not told: {error}"
        self.missing: dict[str, str] = {}
        self._readers = [reader for reader in self._all_readers() if self._probe(reader)]
        self._gpm = Gpm(self._handle)
        self.missing |= self._gpm.missing
        self.quantities: Sequence[Quantity] = [q for r in self._readers for q in r.quantities]

    def start(self) -> None:
        """The window begins; GPM takes its first sample."""
        self._start_s = time.perf_counter()
        self._gpm.start()

    def sample(self) -> Mapping[str, float]:
        """What can be read now."""
        found: dict[str, float] = {}
        now_s = time.perf_counter()
        for reader in list(self._readers):
            if now_s - reader.last_s < reader.every_s:
                continue
            reader.last_s = now_s
            try:
                values = reader.read(self._handle)
            except pynvml.NVMLError as error:
                if error.value not in _TRANSIENT:
                    self._drop(reader, error)
                continue
            found |= {q.name: v for q, v in zip(reader.quantities, values, strict=True)}
        return found

    def finish(self) -> Mapping[str, float | None]:
        """GPM's metrics over the window, as one difference."""
        found = self._gpm.finish()
        self.missing |= self._gpm.missing
        return found

    def energy_j(self) -> float:
        """Joules since the driver was loaded.

        Raises:
            pynvml.NVMLError: the card has no such counter (before Volta), or it cannot be read.
        """
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3

    def _probe(self, reader: _Reader) -> bool:
        try:
            reader.read(self._handle)
        except pynvml.NVMLError as error:
            if error.value in _TRANSIENT:
                return True
            self.missing |= {q.name: _why(error) for q in reader.quantities}
            return False
        return True

    def _drop(self, reader: _Reader, error: Exception) -> None:
        self._readers.remove(reader)
        after_s = time.perf_counter() - self._start_s
        self.missing |= {
            q.name: f"{_why(error)}, from {after_s:.1f} s on" for q in reader.quantities
        }

    def _all_readers(self) -> list[_Reader]:
        def one(name: str, read: Callable[[Any], float], counter: bool = False) -> _Reader:
            return _Reader((Quantity(name, counter),), lambda handle: (read(handle),))

        return [
            _Reader((Quantity("gpu_busy_percent"), Quantity("gpu_memory_busy_percent")), _busy),
            one("gpu_memory_used_bytes", _memory),
            one("gpu_process_memory_bytes", self._process_memory),
            one(
                "gpu_sm_clock_mhz", lambda h: pynvml.nvmlDeviceGetClockInfo(h, pynvml.NVML_CLOCK_SM)
            ),
            _Reader(
                (
                    Quantity("gpu_throttled_power"),
                    Quantity("gpu_throttled_thermal"),
                    Quantity("gpu_throttled_other"),
                ),
                _throttled,
            ),
            one("gpu_power_violation_s", _violation(pynvml.NVML_PERF_POLICY_POWER), True),
            one("gpu_thermal_violation_s", _violation(pynvml.NVML_PERF_POLICY_THERMAL), True),
            one("gpu_power_w", lambda h: pynvml.nvmlDeviceGetPowerUsage(h) / 1e3),
            one(
                "gpu_energy_j",
                lambda h: pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3,
                True,
            ),
            one(
                "gpu_temperature_c",
                lambda h: pynvml.nvmlDeviceGetTemperature(h, pynvml.NVML_TEMPERATURE_GPU),
            ),
            _Reader(
                (Quantity("gpu_pcie_sent_mb_per_s"), Quantity("gpu_pcie_received_mb_per_s")),
                _pcie,
                every_s=_PCIE_EVERY_S,
            ),
        ]

    def _process_memory(self, handle: Any) -> float:
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
            if process.pid == self._pid:
                if process.usedGpuMemory is None:
                    raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
                return process.usedGpuMemory
        # Not on the device yet, or listed under the pid of another namespace.
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_DATA)


def gpu_source(device: torch.device) -> GpuSource:
    """The source for a CUDA device of PyTorch's.

    Raises:
        pynvml.NVMLError: see `GpuSource`.
    """
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    candidates = [f"GPU-{uuid}", f"MIG-{uuid}"]
    # A MIG slice is made visible by its own UUID, which older CUDA does not report as the device's.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    index = device.index or 0
    if index < len(visible) and visible[index].startswith("MIG-"):
        candidates.insert(0, visible[index])
    for candidate in candidates[:-1]:
        try:
            return GpuSource(candidate)
        except pynvml.NVMLError as error:
            if error.value not in (
                pynvml.NVML_ERROR_NOT_FOUND,
                pynvml.NVML_ERROR_INVALID_ARGUMENT,
            ):
                raise
    return GpuSource(candidates[-1])


def _busy(handle: Any) -> tuple[float, float]:
    rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu, rates.memory


def _memory(handle: Any) -> float:
    """Version 2 leaves out what the driver reserves for itself."""
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).used


def _throttled(handle: Any) -> tuple[float, float, float]:
    try:
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    except pynvml.NVMLError_FunctionNotFound:  # drivers before 535
        reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    harmless = (
        pynvml.nvmlClocksThrottleReasonGpuIdle
        | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    )
    other = reasons & ~(harmless | _POWER | _THERMAL)
    return float(bool(reasons & _POWER)), float(bool(reasons & _THERMAL)), float(bool(other))


def _violation(policy: int) -> Callable[[Any], float]:
    def read(handle: Any) -> float:
        return pynvml.nvmlDeviceGetViolationStatus(handle, policy).violationTime / 1e9

    return read


def _pcie(handle: Any) -> tuple[float, float]:
    """Kilobytes a second, over the last 20 ms."""
    sent = pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_TX_BYTES)
    received = pynvml.nvmlDeviceGetPcieThroughput(handle, pynvml.NVML_PCIE_UTIL_RX_BYTES)
    return sent / 1e3, received / 1e3


def _why(error: Exception) -> str:
    return f"NVML: {' '.join(str(error).split())}"
