"""Linear layer with tanh in its epilogue: out = tanh(x @ weight.T + bias)."""

from fastmodel.ops.linear_tanh.module import LinearTanh
from fastmodel.ops.linear_tanh.op import linear_tanh

__all__ = ["LinearTanh", "linear_tanh"]
