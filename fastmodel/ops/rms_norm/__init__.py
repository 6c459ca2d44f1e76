"""Root mean square normalization."""

from fastmodel.ops.rms_norm.module import RMSNorm
from fastmodel.ops.rms_norm.op import rms_norm

__all__ = ["RMSNorm", "rms_norm"]
