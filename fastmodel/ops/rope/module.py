"""Rotary embedding as a module."""

from __future__ import annotations

import torch

from fastmodel.ops.rope.op import rope
from fastmodel.ops.rotary_module import Rotary


class RotaryEmbedding(Rotary):
    """q and k turned by the angles of their positions, pairs half a head apart: the layout of Llama.

    The angle of pair i at position t is t * base^(-2 i / width). The tables are buffers that no state_dict
    holds.

    Args:
        width: elements a head, even.
        positions: how many the tables have.
        base: of the angles' speeds.
        device: where the tables lie.
    """

    _turn = staticmethod(rope)
    _in_pairs = staticmethod(lambda angles: torch.cat([angles, angles], dim=-1))
