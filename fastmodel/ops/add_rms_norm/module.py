"""Residual addition and nn.RMSNorm in one module."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.add_rms_norm.op import add_rms_norm
from fastmodel.ops.modules import adopt


class AddRMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` of a sum of two: called as module(input, residual), it returns (normalised sum, sum).

    Arguments, parameters, initialisation and state_dict are those of `nn.RMSNorm`.

    Args:
        normalized_shape: the sizes of the last dimensions, those normalised over; an int for one.
        eps: added to the mean of squares; None for the epsilon of the arithmetic.
        elementwise_affine: False to learn no weight.
        device: where the weight lies.
        dtype: of the weight.
    """

    def forward(self, input: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(normalised sum, sum); see `functional.add_rms_norm`."""
        return add_rms_norm(input, residual, self.normalized_shape, self.weight, self.eps)

    @classmethod
    def from_torch(cls, source: nn.RMSNorm) -> AddRMSNorm:
        """The fused module over the very Parameter of `source`, which is left as it is."""
        affine = source.elementwise_affine
        return adopt(cls(source.normalized_shape, source.eps, affine, device="meta"), source)
