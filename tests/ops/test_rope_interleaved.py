"""rope_interleaved against the products of Hugging Face's GPT-J, and against float64."""

import torch
from support.rotary_embedding import Embedding, RotaryEmbeddingTests

import fastmodel as fm
from fastmodel.ops.rope_interleaved.cases import CASES


def crossed(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


class TestRopeInterleaved(RotaryEmbeddingTests):
    embedding = Embedding("rope_interleaved", fm.nn.InterleavedRotaryEmbedding, crossed, CASES)
    is_neighbour = True
