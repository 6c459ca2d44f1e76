"""Where the kernels of conv_relu for NVIDIA GPUs are tried first.

No GPU has measured these bounds yet: they come from bytes and FLOPs (csrc/common/conv_direct.cuh). A first
layer moves more bytes than its products cost, and PyTorch's convolution, bias and ReLU move the output three
times over; with more channels tensor cores pass float32's rate.
"""

from __future__ import annotations

import torch

from fastmodel.ops import conv_cuda
from fastmodel.ops.conv_relu import cudnn

_MANY_CHANNELS = "with so many channels or taps the library's product is faster"
_COPIES = "the copies to channels_last cost more than the fused pass saves"


def forward(x, weight, bias, stride, padding, dilation, groups):
    """None where the library's product and our epilogue are the fastest, else the reason."""
    refusal = cudnn.forward_condition(x, weight, bias, stride, padding, dilation, groups)
    return "cuDNN's own epilogue saves a pass" if refusal is None else None


def forward_direct(x, weight, *_):
    """None where the direct forward is the fastest, else the reason."""
    return None if conv_cuda.is_first_layer(weight) else _MANY_CHANNELS


def forward_depthwise(x, weight, *_):
    """None where the depthwise forward is the fastest, else the reason."""
    return None if x.is_contiguous(memory_format=torch.channels_last) else _COPIES


def backward_direct(grad, x, weight, out, *_):
    """None where the direct backward is the fastest, else the reason."""
    if not conv_cuda.is_first_layer(weight):
        return _MANY_CHANNELS
    return None if out.is_contiguous(memory_format=torch.channels_last) else _COPIES


def backward_depthwise(grad, x, weight, out, *_):
    """None where the depthwise backward is the fastest, else the reason."""
    return None if out.is_contiguous(memory_format=torch.channels_last) else _COPIES
