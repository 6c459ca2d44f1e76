"""The feed-forward block of a gated linear unit with the exact GELU."""

from __future__ import annotations

from fastmodel.ops.gated_module import GatedMLP
from fastmodel.ops.geglu.op import geglu


class GEGLU(GatedMLP):
    """Feed-forward block with the exact GELU: out = down_proj(gelu(gate_proj(x)) * up_proj(x)).

    The submodules are three `nn.Linear`, named as in Hugging Face's gated blocks.

    Args:
        in_features: size of each input sample.
        hidden_features: size between the projections.
        out_features: size of each output sample; None for in_features.
        bias: True for projections with a bias.
        device: where the parameters lie.
        dtype: of the parameters.
    """

    _unit = staticmethod(geglu)
