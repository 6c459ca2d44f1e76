"""The fused ops as functions, one per op."""

from fastmodel.ops.add_layer_norm import add_layer_norm
from fastmodel.ops.add_rms_norm import add_rms_norm
from fastmodel.ops.batch_norm_relu import batch_norm_relu
from fastmodel.ops.conv_relu import conv_relu
from fastmodel.ops.conv_relu_maxpool import conv_relu_maxpool
from fastmodel.ops.cross_entropy import cross_entropy
from fastmodel.ops.geglu import geglu
from fastmodel.ops.geglu_tanh import geglu_tanh
from fastmodel.ops.layer_norm import layer_norm
from fastmodel.ops.linear import linear
from fastmodel.ops.linear_cross_entropy import linear_cross_entropy
from fastmodel.ops.linear_gelu import linear_gelu
from fastmodel.ops.linear_relu import linear_relu
from fastmodel.ops.linear_relu_dropout import linear_relu_dropout
from fastmodel.ops.linear_sigmoid import linear_sigmoid
from fastmodel.ops.linear_silu import linear_silu
from fastmodel.ops.linear_tanh import linear_tanh
from fastmodel.ops.mse_loss import mse_loss
from fastmodel.ops.rms_norm import rms_norm
from fastmodel.ops.rope import rope
from fastmodel.ops.rope_interleaved import rope_interleaved
from fastmodel.ops.swiglu import swiglu

__all__ = [
    "add_layer_norm",
    "add_rms_norm",
    "batch_norm_relu",
    "conv_relu",
    "conv_relu_maxpool",
    "cross_entropy",
    "geglu",
    "geglu_tanh",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linear_gelu",
    "linear_relu",
    "linear_relu_dropout",
    "linear_sigmoid",
    "linear_silu",
    "linear_tanh",
    "mse_loss",
    "rms_norm",
    "rope",
    "rope_interleaved",
    "swiglu",
]
