"""Linear layer with ReLU in its epilogue: out = relu(x @ weight.T + bias)."""

from fastmodel.ops.linear_relu.module import LinearReLU
from fastmodel.ops.linear_relu.op import linear_relu

__all__ = ["LinearReLU", "linear_relu"]
