"""Drop-in optimizers: each is a subclass of the PyTorch optimizer it stands for."""

from fastmodel.ops.adam import Adam, AdamW
from fastmodel.ops.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW"]
