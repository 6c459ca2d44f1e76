"""Linear layer with sigmoid in its epilogue: out = sigmoid(x @ weight.T + bias)."""

from fastmodel.ops.linear_sigmoid.module import LinearSigmoid
from fastmodel.ops.linear_sigmoid.op import linear_sigmoid

__all__ = ["LinearSigmoid", "linear_sigmoid"]
