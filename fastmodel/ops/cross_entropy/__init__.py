"""Softmax and cross-entropy in one: loss of logits against class indices or probabilities."""

from fastmodel.ops.cross_entropy.module import CrossEntropyLoss
from fastmodel.ops.cross_entropy.op import cross_entropy

__all__ = ["CrossEntropyLoss", "cross_entropy"]
