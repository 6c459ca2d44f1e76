"""The fused ops as functions, one per op."""

from fastmodel.ops.batch_norm_relu import batch_norm_relu
from fastmodel.ops.conv_relu import conv_relu
from fastmodel.ops.conv_relu_maxpool import conv_relu_maxpool
from fastmodel.ops.cross_entropy import cross_entropy
from fastmodel.ops.linear_gelu import linear_gelu
from fastmodel.ops.linear_relu import linear_relu
from fastmodel.ops.linear_relu_dropout import linear_relu_dropout
from fastmodel.ops.linear_sigmoid import linear_sigmoid
from fastmodel.ops.linear_silu import linear_silu
from fastmodel.ops.linear_tanh import linear_tanh
from fastmodel.ops.mse_loss import mse_loss

__all__ = [
    "batch_norm_relu",
    "conv_relu",
    "conv_relu_maxpool",
    "cross_entropy",
    "linear_gelu",
    "linear_relu",
    "linear_relu_dropout",
    "linear_sigmoid",
    "linear_silu",
    "linear_tanh",
    "mse_loss",
]
