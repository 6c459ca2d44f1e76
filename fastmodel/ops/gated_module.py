"""The feed-forward block of a gated linear unit: what its modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound="GatedMLP")

_PARTS = ("gate_proj", "up_proj", "down_proj")


class GatedMLP(nn.Module):
    """out = down_proj(unit(gate_proj(x), up_proj(x))); submodules are named as in Hugging Face's models."""

    _unit: Callable[[Tensor, Tensor], Tensor]
    """The gated linear unit, a static method."""

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        out_features: int | None = None,
        bias: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"bias": bias, "device": device, "dtype": dtype}
        outs = in_features if out_features is None else out_features
        self.gate_proj = nn.Linear(in_features, hidden_features, **options)
        self.up_proj = nn.Linear(in_features, hidden_features, **options)
        self.down_proj = nn.Linear(hidden_features, outs, **options)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) to (..., out_features)."""
        return self.down_proj(self._unit(self.gate_proj(x), self.up_proj(x)))

    @classmethod
    def from_torch(cls: type[M], block: nn.Module) -> M:
        """The fused block over the very layers of `block`: its gate_proj, up_proj and down_proj."""
        fused = cls(1, 1, device="meta")
        for name in _PARTS:
            setattr(fused, name, block.get_submodule(name))
        return fused.train(block.training)
