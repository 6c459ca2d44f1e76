"""Gated linear unit with GELU's tanh approximation: out = gelu_tanh(gate) * up."""

from fastmodel.ops.geglu_tanh.module import GEGLUTanh
from fastmodel.ops.geglu_tanh.op import geglu_tanh

__all__ = ["GEGLUTanh", "geglu_tanh"]
