"""Convolution with ReLU in its epilogue: out = relu(conv(x, weight) + bias)."""

from fastmodel.ops.conv_relu.module import ConvReLU2d
from fastmodel.ops.conv_relu.op import conv_relu

__all__ = ["ConvReLU2d", "conv_relu"]
