"""A linear head and the cross-entropy of its logits, which are never held in whole."""

from fastmodel.ops.linear_cross_entropy.module import LinearCrossEntropyLoss
from fastmodel.ops.linear_cross_entropy.op import linear_cross_entropy

__all__ = ["LinearCrossEntropyLoss", "linear_cross_entropy"]
