"""Rotary embedding of q and k, pairs of neighbours: the layout of GPT-J and of the paper."""

from fastmodel.ops.rope_interleaved.module import InterleavedRotaryEmbedding
from fastmodel.ops.rope_interleaved.op import rope_interleaved

__all__ = ["InterleavedRotaryEmbedding", "rope_interleaved"]
