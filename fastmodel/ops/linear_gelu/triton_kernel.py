"""linear_gelu in Triton; the kernels stand in ops/triton_linear.py.

value(z) = z Phi(z)    chain(grad, z) = grad (Phi(z) + z phi(z))
"""

from __future__ import annotations

from fastmodel.ops.triton_linear import from_pre
from fastmodel.ops.triton_math import gelu, gelu_chain

__all__ = ["backward", "forward"]

forward, backward = from_pre(gelu, gelu_chain)
