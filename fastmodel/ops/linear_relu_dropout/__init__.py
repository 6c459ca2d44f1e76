"""Linear layer with ReLU and dropout: out = relu(x @ weight.T + bias) * keep / (1 - p)."""

from fastmodel.ops.linear_relu_dropout.module import LinearReLUDropout
from fastmodel.ops.linear_relu_dropout.op import linear_relu_dropout

__all__ = ["LinearReLUDropout", "linear_relu_dropout"]
