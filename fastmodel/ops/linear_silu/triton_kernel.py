"""linear_silu in Triton; the kernels stand in ops/triton_linear.py.

value(z) = z sigmoid(z)    chain(grad, z) = grad s (1 + z (1 - s)), s = sigmoid(z)
"""

from __future__ import annotations

from fastmodel.ops.triton_linear import from_pre
from fastmodel.ops.triton_math import silu, silu_chain

__all__ = ["backward", "forward"]

forward, backward = from_pre(silu, silu_chain)
