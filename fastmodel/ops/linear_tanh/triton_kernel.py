"""linear_tanh in Triton; the kernels stand in ops/triton_linear.py.

value(z) = tanh(z)    chain(grad, out) = grad (1 - out^2)
"""

from __future__ import annotations

from fastmodel.ops.triton_linear import from_out
from fastmodel.ops.triton_math import tanh, tanh_chain

__all__ = ["backward", "forward"]

forward, backward = from_out(tanh, tanh_chain)
