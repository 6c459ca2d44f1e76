"""The clock: wall time in seconds, read only after the device has finished."""

from __future__ import annotations

import time

import torch


def synchronize(device: torch.device | str = "cpu") -> None:
    """Wait until `device` has finished all work given to it; the CPU needs no waiting."""
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def now_s(device: torch.device | str = "cpu") -> float:
    """Seconds of a monotonic clock, after `device` has finished; only differences mean anything."""
    synchronize(device)
    return time.perf_counter()
