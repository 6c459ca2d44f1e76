"""Residual addition and root mean square normalization in one: returns the normalised sum and the sum."""

from fastmodel.ops.add_rms_norm.module import AddRMSNorm
from fastmodel.ops.add_rms_norm.op import add_rms_norm

__all__ = ["AddRMSNorm", "add_rms_norm"]
