"""Drop-in modules: each is a subclass of the PyTorch module it stands for."""

from fastmodel.ops.add_layer_norm import AddLayerNorm
from fastmodel.ops.add_rms_norm import AddRMSNorm
from fastmodel.ops.batch_norm_relu import BatchNormReLU2d
from fastmodel.ops.conv_relu import ConvReLU2d
from fastmodel.ops.conv_relu_maxpool import ConvReLUMaxPool2d
from fastmodel.ops.cross_entropy import CrossEntropyLoss
from fastmodel.ops.geglu import GEGLU
from fastmodel.ops.geglu_tanh import GEGLUTanh
from fastmodel.ops.layer_norm import LayerNorm
from fastmodel.ops.linear import Linear
from fastmodel.ops.linear_cross_entropy import LinearCrossEntropyLoss
from fastmodel.ops.linear_gelu import LinearGELU
from fastmodel.ops.linear_relu import LinearReLU
from fastmodel.ops.linear_relu_dropout import LinearReLUDropout
from fastmodel.ops.linear_sigmoid import LinearSigmoid
from fastmodel.ops.linear_silu import LinearSiLU
from fastmodel.ops.linear_tanh import LinearTanh
from fastmodel.ops.mse_loss import MSELoss
from fastmodel.ops.rms_norm import RMSNorm
from fastmodel.ops.rope import RotaryEmbedding
from fastmodel.ops.rope_interleaved import InterleavedRotaryEmbedding
from fastmodel.ops.sequential import Sequential
from fastmodel.ops.swiglu import SwiGLU

__all__ = [
    "GEGLU",
    "AddLayerNorm",
    "AddRMSNorm",
    "BatchNormReLU2d",
    "ConvReLU2d",
    "ConvReLUMaxPool2d",
    "CrossEntropyLoss",
    "GEGLUTanh",
    "InterleavedRotaryEmbedding",
    "LayerNorm",
    "Linear",
    "LinearCrossEntropyLoss",
    "LinearGELU",
    "LinearReLU",
    "LinearReLUDropout",
    "LinearSiLU",
    "LinearSigmoid",
    "LinearTanh",
    "MSELoss",
    "RMSNorm",
    "RotaryEmbedding",
    "Sequential",
    "SwiGLU",
]
