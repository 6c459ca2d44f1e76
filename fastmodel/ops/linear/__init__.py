"""Linear layer: out = x @ weight.T + bias."""

from fastmodel.ops.linear.module import Linear
from fastmodel.ops.linear.op import linear

__all__ = ["Linear", "linear"]
