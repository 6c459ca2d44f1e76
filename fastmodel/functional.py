"""The fused ops as functions, one per op."""

from fastmodel.ops.linear_relu import linear_relu

__all__ = ["linear_relu"]
