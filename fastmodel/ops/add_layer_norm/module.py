"""Residual addition and nn.LayerNorm in one module."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.add_layer_norm.op import add_layer_norm
from fastmodel.ops.modules import adopt


class AddLayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` of a sum of two: called as module(input, residual), it returns (normalised sum, sum).

    Arguments, parameters, initialisation and state_dict are those of `nn.LayerNorm`.

    Args:
        normalized_shape: the sizes of the last dimensions, those normalised over; an int for one.
        eps: added to the variance.
        elementwise_affine: False to learn neither weight nor bias.
        bias: False to learn no bias.
        device: where the parameters lie.
        dtype: of the parameters.
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(normalised sum, sum); see `functional.add_layer_norm`."""
        return add_layer_norm(
            input, residual, self.normalized_shape, self.weight, self.bias, self.eps
        )

    @classmethod
    def from_torch(cls, source: nn.LayerNorm) -> AddLayerNorm:
        """The fused module over the very Parameters of `source`, which is left as it is."""
        affine, bias = source.elementwise_affine, source.bias is not None
        return adopt(cls(source.normalized_shape, source.eps, affine, bias, device="meta"), source)
