"""Mean squared error: loss of an input against a target of its shape."""

from fastmodel.ops.mse_loss.module import MSELoss
from fastmodel.ops.mse_loss.op import mse_loss

__all__ = ["MSELoss", "mse_loss"]
