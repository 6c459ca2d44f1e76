"""GPU performance monitoring (GPM): how much of the GPU the kernels used, on Hopper and later.

The counters are read twice, at the two ends of the window, and the driver forms the metrics from the
difference: figures of exactly that window, at the cost of two readings.
"""

from __future__ import annotations

from typing import Any

import pynvml

METRICS = {
    "sm_activity_percent": pynvml.NVML_GPM_METRIC_SM_UTIL,
    "sm_occupancy_percent": pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    "tensor_activity_percent": pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    "dram_bandwidth_percent": pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
}


class Gpm:
    """The metrics of one device between `start` and `finish`."""

    def __init__(self, handle: Any) -> None:
        self.missing: dict[str, str] = {}
        self._samples: list[Any] = []
        self._handle, self._instance = handle, None
        try:
            if pynvml.nvmlDeviceIsMigDeviceHandle(handle):
                self._instance = pynvml.nvmlDeviceGetGpuInstanceId(handle)
                self._handle = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            if not pynvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
                self._give_up("the device has no GPM counters; Hopper and later do")
        except pynvml.NVMLError as error:
            self._give_up(_why(error))

    def start(self) -> None:
        """Read the counters for the first time."""
        self._free()
        if not self.missing:
            self._read()

    def finish(self) -> dict[str, float | None]:
        """Read them again; name to value, of each that the driver could form."""
        if self._samples and not self.missing:
            self._read()
        found: dict[str, float | None] = {}
        if len(self._samples) == 2 and not self.missing:
            try:
                found = self._difference()
            except pynvml.NVMLError as error:
                self._give_up(_why(error))
        self._free()
        return found

    def _read(self) -> None:
        try:
            sample = pynvml.nvmlGpmSampleAlloc()
            self._samples.append(sample)
            if self._instance is None:
                pynvml.nvmlGpmSampleGet(self._handle, sample)
            else:
                pynvml.nvmlGpmMigSampleGet(self._handle, self._instance, sample)
        except pynvml.NVMLError as error:
            self._give_up(_why(error))

    def _difference(self) -> dict[str, float | None]:
        query = pynvml.c_nvmlGpmMetricsGet_t()
        query.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        query.numMetrics = len(METRICS)
        query.sample1, query.sample2 = self._samples
        for place, metric in enumerate(METRICS.values()):
            query.metrics[place].metricId = metric
        pynvml.nvmlGpmMetricsGet(query)
        found: dict[str, float | None] = {}
        for place, name in enumerate(METRICS):
            answer = query.metrics[place]
            if answer.nvmlReturn == pynvml.NVML_SUCCESS:
                found[name] = answer.value
            else:
                self.missing[name] = _why(pynvml.NVMLError(answer.nvmlReturn))
        return found

    def _free(self) -> None:
        for sample in self._samples:
            pynvml.nvmlGpmSampleFree(sample)
        self._samples = []

    def _give_up(self, reason: str) -> None:
        self.missing = dict.fromkeys(METRICS, reason)


def _why(error: Exception) -> str:
    return f"NVML: {' '.join(str(error).split())}"
