"""The drop-in for nn.RMSNorm."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.modules import adopt
from fastmodel.ops.rms_norm.op import rms_norm


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` in one pass over each row.

    Arguments, parameters, initialisation and state_dict are those of `nn.RMSNorm`.

    Args:
        normalized_shape: the sizes of the last dimensions, those normalised over; an int for one.
        eps: added to the mean of squares; None for the epsilon of the arithmetic.
        elementwise_affine: False to learn no weight.
        device: where the weight lies.
        dtype: of the weight.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input; see `functional.rms_norm`."""
        return rms_norm(input, self.normalized_shape, self.weight, self.eps)

    @classmethod
    def from_torch(cls, source: nn.RMSNorm) -> RMSNorm:
        """The fused module over the very Parameter of `source`, which is left as it is."""
        affine = source.elementwise_affine
        return adopt(cls(source.normalized_shape, source.eps, affine, device="meta"), source)
