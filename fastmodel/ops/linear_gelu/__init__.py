"""Linear layer with GELU in its epilogue: out = gelu(x @ weight.T + bias)."""

from fastmodel.ops.linear_gelu.module import LinearGELU
from fastmodel.ops.linear_gelu.op import linear_gelu

__all__ = ["LinearGELU", "linear_gelu"]
