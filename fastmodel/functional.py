"""The fused ops as functions, one per op."""

from fastmodel.ops.conv_relu import conv_relu
from fastmodel.ops.conv_relu_maxpool import conv_relu_maxpool
from fastmodel.ops.cross_entropy import cross_entropy
from fastmodel.ops.linear_relu import linear_relu
from fastmodel.ops.linear_relu_dropout import linear_relu_dropout
from fastmodel.ops.mse_loss import mse_loss

__all__ = [
    "conv_relu",
    "conv_relu_maxpool",
    "cross_entropy",
    "linear_relu",
    "linear_relu_dropout",
    "mse_loss",
]
