"""fastmodel: fused kernels, measured selection and an honest harness for PyTorch training."""

from fastmodel import errors, functional, nn, optim
from fastmodel.env import VERSION as __version__
from fastmodel.ops.dispatch import use_backend
from fastmodel.ops.table import kernels

# Last: `fastmodel.optimize` is a package too, and the public name is its function.
from fastmodel.optimize import Plan, optimize, optimize_step, plan_of, revert  # isort: skip

__all__ = [
    "Plan",
    "__version__",
    "errors",
    "functional",
    "kernels",
    "nn",
    "optim",
    "optimize",
    "optimize_step",
    "plan_of",
    "revert",
    "use_backend",
]
