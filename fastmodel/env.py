"""What this process runs on: the native extension, the CPU capability it chose, versions."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from fastmodel.errors import BuildError

VERSION = "0.1.0"


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
    module, reason = _load_native()
    if module is None:
        raise BuildError(reason)
    return module


def native_missing() -> str | None:
    """Why there is no native extension, or None if there is one."""
    return _load_native()[1] or None


def cpu_capability() -> str | None:
    """The build of the CPU kernels in use: "plain", "avx2" or "avx512"; None without the extension."""
    module, _ = _load_native()
    return None if module is None else module.cpu_capability()
