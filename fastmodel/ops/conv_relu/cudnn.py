"""conv_relu by cuDNN's own epilogue, on NVIDIA GPUs, where that is right and fast.

Whether cuDNN's ReLU keeps NaN, or makes 0 of it, is up to the algorithm that its heuristics choose. So each
kind of call is tried once, on an x of NaN, before one is served.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fastmodel.ops import conv

_MOST_TAPS = 9
"""cuDNN's product with epilogue is known to be many times slower for 7 x 7 filters over channels_last."""

_is_right: dict[tuple, bool] = {}


def forward_condition(x, weight, bias, stride, padding, dilation, groups):
    """Why cuDNN's epilogue does not take this call, or None; tries a kind of call that is new."""
    if not torch.backends.cudnn.is_acceptable(x):
        return "cuDNN is not available for x"
    if weight.shape[2] * weight.shape[3] > _MOST_TAPS:
        return "cuDNN's epilogue is slow for large filters"
    if x.numel() == 0:
        return "x is empty"
    options = (tuple(stride), tuple(padding), tuple(dilation), groups)
    kind = _kind(x, weight, options)
    if kind not in _is_right:
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return "this kind of call was not tried before the capture"
        _is_right[kind] = _keeps_nan(x, weight, options)
    return None if _is_right[kind] else "cuDNN's ReLU loses NaN here"


def forward(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    out = torch.cudnn_convolution_relu(x, weight, bias, stride, padding, dilation, groups)
    return out.contiguous(memory_format=conv.memory_format(x, weight))


def _kind(x, weight, options) -> tuple:
    """What cuDNN chooses an algorithm by."""
    settings = torch.backends.cudnn
    return (
        x.device,
        x.dtype,
        x.shape,
        weight.shape,
        conv.memory_format(x, weight),
        options,
        settings.benchmark,
        settings.deterministic,
        settings.allow_tf32,
    )


def _keeps_nan(x, weight, options) -> bool:
    memory_format = conv.memory_format(x, weight)
    nan = torch.full_like(x, torch.nan).contiguous(memory_format=memory_format)
    ones = torch.ones_like(weight).contiguous(memory_format=memory_format)
    found = torch.cudnn_convolution_relu(nan, ones, None, *options)
    return torch.equal(found.isnan(), F.conv2d(nan, ones, None, *options).isnan())
