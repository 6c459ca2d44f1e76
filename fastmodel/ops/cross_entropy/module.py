"""The drop-in for nn.CrossEntropyLoss."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops.cross_entropy.op import cross_entropy


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """`nn.CrossEntropyLoss` with softmax, likelihood and reduction in one pass over the logits.

    Arguments, the weight buffer and state_dict are those of `nn.CrossEntropyLoss`.

    Args:
        weight: (C,), a factor per class, or None.
        size_average: deprecated, as in PyTorch.
        ignore_index: rows of this class index count for nothing.
        reduce: deprecated, as in PyTorch.
        reduction: "none", "mean" or "sum".
        label_smoothing: in [0, 1].
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits against class indices or probabilities; see `functional.cross_entropy`."""
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    @classmethod
    def from_torch(cls, loss: nn.CrossEntropyLoss) -> CrossEntropyLoss:
        """The fused module over the very weight of `loss`, which is left as it is."""
        fused = cls(
            loss.weight,
            ignore_index=loss.ignore_index,
            reduction=loss.reduction,
            label_smoothing=loss.label_smoothing,
        )
        return fused.train(loss.training)
