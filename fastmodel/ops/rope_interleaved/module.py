"""Rotary embedding of neighbours as a module."""

from __future__ import annotations

from fastmodel.ops.rope_interleaved.op import rope_interleaved
from fastmodel.ops.rotary_module import Rotary


class InterleavedRotaryEmbedding(Rotary):
    """q and k turned by the angles of their positions, pairs of neighbours: the layout of GPT-J.

    The angle of pair i at position t is t * base^(-2 i / width). The tables are buffers that no state_dict
    holds.

    Args:
        width: elements a head, even.
        positions: how many the tables have.
        base: of the angles' speeds.
        device: where the tables lie.
    """

    _turn = staticmethod(rope_interleaved)
    _in_pairs = staticmethod(lambda angles: angles.repeat_interleave(2, dim=-1))
