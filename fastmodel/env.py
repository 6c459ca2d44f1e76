"""What this process runs on: the native extension, the CPU capability it chose, versions."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import importlib
import importlib.util
import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import torch

from fastmodel.errors import BuildError

VERSION = "0.1.0"

_VARIABLES = (
    "FASTMODEL_CPU_CAPABILITY",
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
    "OMP_NUM_THREADS",
)


@functools.cache
def _load_native() -> tuple[ModuleType | None, str]:
    # torch comes first, so that the OpenMP runtime it carries is the one the extension binds to.
    assert torch is not None
    try:
        module = importlib.import_module("fastmodel._C")
        module.cpu_capability()
    except ImportError as error:
        return (
            None,
            f"the native extension is not built ({error}); run `pip install .` in the checkout",
        )
    except RuntimeError as error:
        return None, str(error)
    return module, ""


def native() -> ModuleType:
    """The native extension `fastmodel._C`.

    Raises:
        BuildError: it is not built, or FASTMODEL_CPU_CAPABILITY names what this machine lacks.
    """
    stand_in = _stand_in.get()
    if stand_in is not None:
        return stand_in
    module, reason = _load_native()
    if module is None:
        raise BuildError(reason)
    return module


_stand_in: contextvars.ContextVar[Any] = contextvars.ContextVar("native", default=None)


@contextlib.contextmanager
def native_through(stand_in: Any) -> Iterator[None]:
    """Let `native` answer with an object that passes calls on to the extension."""
    token = _stand_in.set(stand_in)
    try:
        yield
    finally:
        _stand_in.reset(token)


def native_missing() -> str | None:
    """Why there is no native extension, or None if there is one."""
    return _load_native()[1] or None


@functools.cache
def _load_cuda(name: str) -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module(f"fastmodel.{name}"), ""
    except ImportError as error:
        return None, (
            f"fastmodel.{name} is not built ({error}); install with {_CUDA_BUILDS[name]} in the environment"
        )


_CUDA_BUILDS = {"_cuda": "FASTMODEL_CUDA=ON", "_cuda_emulated": "FASTMODEL_CUDA_EMULATED=ON"}


def _cuda_name() -> str:
    return "_cuda_emulated" if "cuda" in simulated() else "_cuda"


def cuda() -> ModuleType:
    """The native kernels for NVIDIA GPUs, `fastmodel._cuda`; or their emulation, which takes CPU tensors.

    Raises:
        BuildError: it is not built.
    """
    module, reason = _load_cuda(_cuda_name())
    if module is None:
        raise BuildError(reason)
    return module


def cuda_missing() -> str | None:
    """Why the native kernels for NVIDIA GPUs cannot run here, or None if they can."""
    is_gpu_here = torch.cuda.is_initialized() or torch.cuda.is_available()
    if not is_gpu_here and "cuda" not in simulated():
        return "no CUDA device (FASTMODEL_CUDA_EMULATE=1 emulates one)"
    return _load_cuda(_cuda_name())[1] or None


def triton_missing() -> str | None:
    """Why Triton's kernels cannot run here, or None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; pip install 'fastmodel[triton]'"
    if torch.cuda.is_available() or "triton" in simulated():
        return None
    return "no CUDA device (TRITON_INTERPRET=1 runs it on the CPU)"


def simulated() -> tuple[str, ...]:
    """The GPU backends whose kernels run on CPU tensors here, slowly, when asked for by name."""
    return tuple(name for name, variable in _SIMULATIONS.items() if os.environ.get(variable) == "1")


_SIMULATIONS = {"cuda": "FASTMODEL_CUDA_EMULATE", "triton": "TRITON_INTERPRET"}


def cpu_capability() -> str | None:
    """The build of the CPU kernels in use: "plain", "avx2" or "avx512"; None without the extension."""
    module, _ = _load_native()
    return None if module is None else module.cpu_capability()


def cpu_model() -> str | None:
    """The CPU's name as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or None


def _cpuinfo(key: str) -> str | None:
    """What Linux says of its first CPU under this key."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


@functools.cache
def cpu_vendor() -> str | None:
    """Who made the CPU, as it says itself: "GenuineIntel", "AuthenticAMD"; None where it does not say."""
    return _cpuinfo("vendor_id")


def cpu_count() -> int:
    """CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory of the machine."""
    return psutil.virtual_memory().total


def variables() -> dict[str, str]:
    """The set environment variables that choose instructions and threads, ours and PyTorch's."""
    return {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}


def gpus() -> list[str]:
    """Names of the CUDA devices that PyTorch sees."""
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def os_name() -> str:
    """System and release, "Linux 6.1.0 x86_64" for instance."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def python_version() -> str:
    """The interpreter's version."""
    return platform.python_version()


def hostname_hash() -> str:
    """12 hex digits that tell machines apart without naming them."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:12]
