"""What the drop-in modules share."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def adopt(module: M, source: nn.Module) -> M:
    """Give `module` (made on the meta device) the very Parameters and the mode of `source`."""
    for name, parameter in source._parameters.items():
        module.register_parameter(name, parameter)
    return module.train(source.training)


def conv2d_arguments(source: nn.Conv2d) -> dict:
    """The constructor's arguments that make a twin of `source` on the meta device."""
    return {
        "in_channels": source.in_channels,
        "out_channels": source.out_channels,
        "kernel_size": source.kernel_size,
        "stride": source.stride,
        "padding": source.padding,
        "dilation": source.dilation,
        "groups": source.groups,
        "bias": source.bias is not None,
        "padding_mode": source.padding_mode,
        "device": "meta",
    }
