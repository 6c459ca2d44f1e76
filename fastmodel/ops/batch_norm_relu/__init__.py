"""Batch norm of images with ReLU behind it: out = relu((x - mean) / sqrt(var + eps) * weight + bias)."""

from fastmodel.ops.batch_norm_relu.module import BatchNormReLU2d
from fastmodel.ops.batch_norm_relu.op import batch_norm_relu

__all__ = ["BatchNormReLU2d", "batch_norm_relu"]
