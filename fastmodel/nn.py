"""Drop-in modules: each is a subclass of the PyTorch module it stands for."""

from fastmodel.ops.linear_relu import LinearReLU

__all__ = ["LinearReLU"]
