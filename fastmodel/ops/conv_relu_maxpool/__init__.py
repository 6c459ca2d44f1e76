"""Convolution, ReLU and max-pool in one: out = maxpool(relu(conv(x, weight) + bias))."""

from fastmodel.ops.conv_relu_maxpool.module import ConvReLUMaxPool2d
from fastmodel.ops.conv_relu_maxpool.op import conv_relu_maxpool

__all__ = ["ConvReLUMaxPool2d", "conv_relu_maxpool"]
