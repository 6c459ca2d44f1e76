"""Gated linear unit with the exact GELU: out = gelu(gate) * up."""

from fastmodel.ops.geglu.module import GEGLU
from fastmodel.ops.geglu.op import geglu

__all__ = ["GEGLU", "geglu"]
