"""The feed-forward block of Llama."""

from __future__ import annotations

from fastmodel.ops.gated_module import GatedMLP
from fastmodel.ops.swiglu.op import swiglu


class SwiGLU(GatedMLP):
    """Feed-forward block with SiLU: out = down_proj(silu(gate_proj(x)) * up_proj(x)).

    The submodules are three `nn.Linear`, named as in Hugging Face's `LlamaMLP`, whose state_dict it shares.

    Args:
        in_features: size of each input sample.
        hidden_features: size between the projections.
        out_features: size of each output sample; None for in_features.
        bias: True for projections with a bias.
        device: where the parameters lie.
        dtype: of the parameters.
    """

    _unit = staticmethod(swiglu)
