"""linear_sigmoid in Triton; the kernels stand in ops/triton_linear.py.

value(z) = 1 / (1 + exp(-z))    chain(grad, out) = grad out (1 - out)
"""

from __future__ import annotations

from fastmodel.ops.triton_linear import from_out
from fastmodel.ops.triton_math import sigmoid, sigmoid_chain

__all__ = ["backward", "forward"]

forward, backward = from_out(sigmoid, sigmoid_chain)
