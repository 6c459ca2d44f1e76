"""The losses that a script computes, by whatever name it calls them, with a copy of the targets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

# The function that PyTorch's module calls too, and the options that the module takes.
_MODULES: dict[Callable, tuple[type[nn.Module], tuple[str, ...]]] = {
    F.cross_entropy: (
        nn.CrossEntropyLoss,
        ("weight", "ignore_index", "reduction", "label_smoothing"),
    ),
    F.mse_loss: (nn.MSELoss, ("reduction",)),
}


@dataclass(frozen=True)
class LossCall:
    """One call of a loss that PyTorch has a module of."""

    module: nn.Module
    """Called as module(output, targets), it computes the same."""
    output_shape: tuple[int, ...]
    targets: torch.Tensor


class LossWatch(TorchFunctionMode):
    """Writes down the losses that are called while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[LossCall] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _MODULES and torch.is_grad_enabled():
            self._note(func, args, kwargs)
        return func(*args, **kwargs)

    def _note(self, func: Callable, args: tuple, kwargs: dict[str, Any]) -> None:
        kind, options = _MODULES[func]
        given = inspect.signature(func).bind(*args, **kwargs)
        given.apply_defaults()
        values = given.arguments
        weight = values.get("weight")
        if func is F.mse_loss and weight is not None:
            return  # the module has none
        module = kind(**{name: values[name] for name in options})
        targets = values["target"].detach().clone()
        self.calls.append(LossCall(module, tuple(values["input"].shape), targets))
