"""Drop-in optimizers and their GradScaler: each is a subclass of PyTorch's that it stands for."""

from fastmodel.ops.adam import Adam, AdamW
from fastmodel.ops.grad_scaler import GradScaler
from fastmodel.ops.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "GradScaler"]
