"""linear_relu in Triton; the kernels stand in ops/triton_linear.py.

value(z) = max(z, 0)    chain(grad, out) = out <= 0 ? 0 : grad, where NaN counts as alive
"""

from __future__ import annotations

from fastmodel.ops.triton_linear import from_out
from fastmodel.ops.triton_math import relu, relu_chain

__all__ = ["backward", "forward"]

forward, backward = from_out(relu, relu_chain)
