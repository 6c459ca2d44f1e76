"""The fused ops as functions, one per op."""

from fastmodel.ops.conv_relu import conv_relu
from fastmodel.ops.conv_relu_maxpool import conv_relu_maxpool
from fastmodel.ops.linear_relu import linear_relu

__all__ = ["conv_relu", "conv_relu_maxpool", "linear_relu"]
