"""Which sources of telemetry this machine has for work on a device."""

from __future__ import annotations

from pathlib import Path

import torch

from fastmodel.harness.telemetry.host import HostSource
from fastmodel.harness.telemetry.rapl import POWERCAP, RaplSource
from fastmodel.harness.telemetry.source import Source


def sources_for(device: str, powercap: Path = POWERCAP) -> tuple[list[Source], dict[str, str]]:
    """The sources for work on `device`, and why one is missing."""
    found: list[Source] = []
    missing: dict[str, str] = {}
    wanted = torch.device(device)
    if wanted.type == "cuda":
        from fastmodel.harness.telemetry.gpu import gpu_source

        try:
            found.append(gpu_source(wanted))
        except Exception as error:  # pynvml's errors share no base with the driver's absence
            missing["nvml"] = f"NVML: {' '.join(str(error).split())}"
    else:
        missing["nvml"] = f"the work is on {wanted}"
    return [*found, HostSource(), RaplSource(powercap)], missing
