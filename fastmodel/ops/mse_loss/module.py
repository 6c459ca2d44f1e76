"""The drop-in for nn.MSELoss."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.mse_loss.op import mse_loss


class MSELoss(nn.MSELoss):
    """`nn.MSELoss` with difference, square and reduction in one pass.

    Args:
        size_average: deprecated, as in PyTorch.
        reduce: deprecated, as in PyTorch.
        reduction: "none", "mean" or "sum".
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input against target; see `functional.mse_loss`."""
        return mse_loss(input, target, reduction=self.reduction)

    @classmethod
    def from_torch(cls, loss: nn.MSELoss) -> MSELoss:
        """The fused module with the reduction of `loss`, which is left as it is."""
        return cls(reduction=loss.reduction).train(loss.training)
