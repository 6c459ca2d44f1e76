"""What the device reaches at most: measured in a large product, a large convolution and a large copy.

The datasheet's figures stand beside them where the device is in `devices.toml`, which is our own and names
its sources. Nothing of the caller's changes: random state, gradient mode and autocast are as before.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import torch
import torch.nn.functional as F

from fastmodel.harness.roofline_records import Ceilings
from fastmodel.timing import now_s

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_ROUNDS = 5
_CPU_SIZES = (1536, 32 * 2**20)
_CUDA_SIZES = (8192, 256 * 2**20)
"""Side of the square product, elements of the copy."""
_CONV_X, _CONV_WEIGHT = (16, 256, 14, 14), (256, 256, 3, 3)
_CUDA_CONV_X = (256, 256, 28, 28)


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """About a second on two cores; the best of a few rounds each."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        gemm, conv, copy = _gemm(device, dtype), _conv(device, dtype), _copy(device)
    name = _name(dtype)
    peaks, missing = _datasheet(device, name)
    return Ceilings(
        device=device_name(device),
        dtype=name,
        gemm_gflop_per_s=gemm,
        conv_gflop_per_s=conv,
        copy_gb_per_s=copy,
        missing=missing,
        **peaks,
    )


def _gemm(device: torch.device, dtype: torch.dtype) -> float:
    side = _CUDA_SIZES[0] if device.type == "cuda" else _CPU_SIZES[0]
    a, b = _values((2, side, side), device, dtype)
    product = torch.empty_like(a)
    return 2 * side**3 / _best_s(lambda: torch.mm(a, b, out=product), device) / 1e9


def _conv(device: torch.device, dtype: torch.dtype) -> float:
    x = _values(_CUDA_CONV_X if device.type == "cuda" else _CONV_X, device, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = _values(_CONV_WEIGHT, device, dtype).contiguous(memory_format=torch.channels_last)
    flops = 2 * weight[0].numel() * x.numel()  # as many outputs as inputs
    return flops / _best_s(lambda: F.conv2d(x, weight, padding=1), device) / 1e9


def _copy(device: torch.device) -> float:
    count = _CUDA_SIZES[1] if device.type == "cuda" else _CPU_SIZES[1]
    source = torch.ones(count, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    return 2 * 4 * count / _best_s(lambda: target.copy_(source), device) / 1e9


def device_name(device: torch.device) -> str:
    """The driver's name of a GPU; "cpu"."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def attainable_gflop_per_s(ceilings: Ceilings, flop_per_byte: float) -> float:
    """The roofline: what the measured ceilings allow at this arithmetic intensity."""
    return min(peak_gflop_per_s(ceilings), flop_per_byte * ceilings.copy_gb_per_s)


def peak_gflop_per_s(ceilings: Ceilings) -> float:
    """The flat part of the roof: the better of product and convolution."""
    return max(ceilings.gemm_gflop_per_s, ceilings.conv_gflop_per_s)


@functools.cache
def devices() -> Sequence[dict[str, Any]]:
    """The table of datasheets."""
    text = resources.files(__package__).joinpath("devices.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["device"]


def datasheet(name: str) -> dict[str, Any] | None:
    """The entry of the table for a device by the driver's name."""
    found = (d for d in devices() if re.search(rf"\b{re.escape(d['match'])}\b", name))
    return next(found, None)


def _datasheet(device: torch.device, dtype: str) -> tuple[dict[str, Any], dict[str, str]]:
    fields = ("datasheet_gflop_per_s", "datasheet_gb_per_s", "datasheet_source")
    if device.type != "cuda":
        return {}, dict.fromkeys(fields, "a CPU: its peak depends on clocks that it does not state")
    name = device_name(device)
    entry = datasheet(name)
    if entry is None:
        return {}, dict.fromkeys(fields, f"{name} is not in the table of datasheets")
    key = "tensor_16_bit" if dtype in ("float16", "bfloat16") else _float32_key(dtype)
    found: dict[str, Any] = {
        "datasheet_gb_per_s": entry["memory_gb_per_s"],
        "datasheet_source": entry["source"],
    }
    if key not in entry:
        return found, {fields[0]: f"the table has no {dtype} figure for {name}"}
    return found | {fields[0]: entry[key] * 1e3}, {}


def _float32_key(dtype: str) -> str:
    allows_tf32 = torch.get_float32_matmul_precision() != "highest"
    return "tf32" if dtype == "float32" and allows_tf32 else dtype


def _values(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Normal values that the caller's generators know nothing of."""
    generator = torch.Generator(device).manual_seed(0)
    return torch.randn(tuple(shape), generator=generator, device=device).to(dtype)


def _best_s(call: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_ROUNDS):
        start_s = now_s(device)
        call()
        times.append(now_s(device) - start_s)
    return min(times)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
