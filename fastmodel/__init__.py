"""fastmodel: fused kernels, measured selection and an honest harness for PyTorch training."""

from fastmodel import errors, functional, nn, optim
from fastmodel.env import VERSION as __version__
from fastmodel.ops.dispatch import use_backend
from fastmodel.ops.table import kernels

__all__ = ["__version__", "errors", "functional", "kernels", "nn", "optim", "use_backend"]
