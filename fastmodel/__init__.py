"""fastmodel: fused kernels, measured selection and an honest harness for PyTorch training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastmodel import errors, functional, nn, optim
from fastmodel.capture import CapturedStep, capture_step
from fastmodel.env import VERSION as __version__
from fastmodel.ops.dispatch import use_backend
from fastmodel.ops.recompute import recompute_activations
from fastmodel.ops.table import kernels

# Last: `fastmodel.optimize` is a package too, and the public name is its function.
from fastmodel.optimize import Plan, optimize, optimize_step, plan_of, revert  # isort: skip

__all__ = [
    "CapturedStep",
    "Plan",
    "__version__",
    "capture_step",
    "errors",
    "functional",
    "kernels",
    "nn",
    "optim",
    "optimize",
    "optimize_step",
    "plan_of",
    "profile",
    "recompute_activations",
    "revert",
    "use_backend",
]

if TYPE_CHECKING:
    from fastmodel.harness.profile_job import profile
else:

    def __getattr__(name: str):
        # The harness stands above this module, and takes a second to import: only who asks for it waits.
        if name == "profile":
            import importlib

            return importlib.import_module("fastmodel.harness.profile_job").profile
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
