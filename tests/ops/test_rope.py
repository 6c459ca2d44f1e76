"""rope against the products of Hugging Face's models, and against float64."""

import torch
from support.rotary_embedding import Embedding, RotaryEmbeddingTests

import fastmodel as fm
from fastmodel.ops.rope.cases import CASES


def crossed(x):
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-second, first), dim=-1)


class TestRope(RotaryEmbeddingTests):
    embedding = Embedding("rope", fm.nn.RotaryEmbedding, crossed, CASES)
    is_neighbour = False
