"""The drop-in for nn.LayerNorm."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.layer_norm.op import layer_norm
from fastmodel.ops.modules import adopt


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` in one pass over each row.

    Arguments, parameters, initialisation and state_dict are those of `nn.LayerNorm`.

    Args:
        normalized_shape: the sizes of the last dimensions, those normalised over; an int for one.
        eps: added to the variance.
        elementwise_affine: False to learn neither weight nor bias.
        bias: False to learn no bias.
        device: where the parameters lie.
        dtype: of the parameters.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input; see `functional.layer_norm`."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    @classmethod
    def from_torch(cls, source: nn.LayerNorm) -> LayerNorm:
        """The fused module over the very Parameters of `source`, which is left as it is."""
        affine, bias = source.elementwise_affine, source.bias is not None
        return adopt(cls(source.normalized_shape, source.eps, affine, bias, device="meta"), source)
