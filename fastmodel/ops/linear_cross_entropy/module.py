"""The drop-in for nn.LinearCrossEntropyLoss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.loss import _WeightedLoss

from fastmodel.errors import InputError
from fastmodel.ops.linear_cross_entropy.op import linear_cross_entropy

# PyTorch has the module from 2.12 on.
_Base: Any = getattr(nn, "LinearCrossEntropyLoss", _WeightedLoss)


class LinearCrossEntropyLoss(_Base):
    """`nn.LinearCrossEntropyLoss`: a linear layer and the cross-entropy of its logits, never held in whole.

    Arguments, parameters (`linear.weight`, `linear.bias`), the weight buffer and state_dict are those of
    PyTorch's module. A head that is tied to an embedding: `loss.linear.weight = embedding.weight`.

    Args:
        in_features: size of each input sample.
        num_classes: C.
        out_features: () alone; a loss of several dimensions is left to PyTorch's.
        bias: True for logits with an additive bias.
        device: where the parameters lie.
        dtype: of the parameters.
        reduction: "none", "mean" or "sum".
        weight: (C,), a factor per class, or None.
        ignore_index: rows of this class index count for nothing; None for -100.
        label_smoothing: in [0, 1].
        options: PyTorch's for its own chunks; here it changes nothing.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device=None,
        dtype=None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> None:
        if out_features != ():
            raise InputError(
                f"linear_cross_entropy: out_features {out_features} asks for a loss of several dimensions; "
                "use torch.nn.LinearCrossEntropyLoss"
            )
        _WeightedLoss.__init__(self, weight=weight, reduction=reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.options = options
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of input (..., in_features) against class indices (...)."""
        return linear_cross_entropy(
            input,
            self.linear.weight,
            target,
            linear_bias=self.linear.bias,
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    @classmethod
    def from_torch(cls, loss: Any) -> LinearCrossEntropyLoss:
        """The fused module over the very layer and weight of `loss`, an `nn.LinearCrossEntropyLoss`."""
        fused = cls(
            loss.linear.in_features,
            loss.num_classes,
            out_features=loss.out_features,
            device="meta",
            reduction=loss.reduction,
            weight=loss.weight,
            ignore_index=loss.ignore_index,
            label_smoothing=loss.label_smoothing,
            options=loss.options,
        )
        fused.linear = loss.linear
        return fused.train(loss.training)
