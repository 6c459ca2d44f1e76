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
