"""Residual addition and layer normalization in one: returns the normalised sum and the sum."""

from fastmodel.ops.add_layer_norm.module import AddLayerNorm
from fastmodel.ops.add_layer_norm.op import add_layer_norm

__all__ = ["AddLayerNorm", "add_layer_norm"]
