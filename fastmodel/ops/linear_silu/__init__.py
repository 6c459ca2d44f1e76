"""Linear layer with SiLU in its epilogue: out = silu(x @ weight.T + bias)."""

from fastmodel.ops.linear_silu.module import LinearSiLU
from fastmodel.ops.linear_silu.op import linear_silu

__all__ = ["LinearSiLU", "linear_silu"]
