"""Gated linear unit with SiLU: out = silu(gate) * up."""

from fastmodel.ops.swiglu.module import SwiGLU
from fastmodel.ops.swiglu.op import swiglu

__all__ = ["SwiGLU", "swiglu"]
