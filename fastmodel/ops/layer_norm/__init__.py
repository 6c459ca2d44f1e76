"""Layer normalization."""

from fastmodel.ops.layer_norm.module import LayerNorm
from fastmodel.ops.layer_norm.op import layer_norm

__all__ = ["LayerNorm", "layer_norm"]
