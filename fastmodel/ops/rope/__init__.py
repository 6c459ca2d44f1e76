"""Rotary embedding of q and k, pairs half a head apart: the layout of Llama and GPT-NeoX."""

from fastmodel.ops.rope.module import RotaryEmbedding
from fastmodel.ops.rope.op import rope

__all__ = ["RotaryEmbedding", "rope"]
