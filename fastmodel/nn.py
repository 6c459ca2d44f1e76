"""Drop-in modules: each is a subclass of the PyTorch module it stands for."""

from fastmodel.ops.batch_norm_relu import BatchNormReLU2d
from fastmodel.ops.conv_relu import ConvReLU2d
from fastmodel.ops.conv_relu_maxpool import ConvReLUMaxPool2d
from fastmodel.ops.cross_entropy import CrossEntropyLoss
from fastmodel.ops.linear_gelu import LinearGELU
from fastmodel.ops.linear_relu import LinearReLU
from fastmodel.ops.linear_relu_dropout import LinearReLUDropout
from fastmodel.ops.linear_sigmoid import LinearSigmoid
from fastmodel.ops.linear_silu import LinearSiLU
from fastmodel.ops.linear_tanh import LinearTanh
from fastmodel.ops.mse_loss import MSELoss
from fastmodel.ops.sequential import Sequential

__all__ = [
    "BatchNormReLU2d",
    "ConvReLU2d",
    "ConvReLUMaxPool2d",
    "CrossEntropyLoss",
    "LinearGELU",
    "LinearReLU",
    "LinearReLUDropout",
    "LinearSiLU",
    "LinearSigmoid",
    "LinearTanh",
    "MSELoss",
    "Sequential",
]
