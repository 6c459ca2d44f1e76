"""Copies of a module tree that share its Parameters, so that the original stays as it was."""

from __future__ import annotations

import collections
import copy
import functools
import types
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _WrappedHook

from fastmodel.optimize.forward import uncaptured
from fastmodel.optimize.plan import ATTRIBUTE
from fastmodel.optimize.swapped_out import CHAINED, PLAIN

_CONTAINERS = (list, tuple, dict, collections.OrderedDict, collections.defaultdict, set)


def shared_clone(
    model: nn.Module, *, own_buffers: bool = False, own_parameters: bool = False
) -> nn.Module:
    """A copy of the module tree over the very Parameters and buffers of `model`.

    Every module is copied without its `__init__`; plain lists, dicts and bound methods in their attributes
    are copied too and point at the new modules. What an earlier `fm.optimize` captured is taken back.

    Args:
        own_buffers: copy buffers and other tensors in attributes, so that a run cannot change the model's.
        own_parameters: copy the Parameters too, for steps that write to them and to their gradients.
    """
    return _Cloner(model, own_buffers, own_parameters).clone(model)


class _Cloner:
    """One walk over a tree; remembers what it has copied, so that what was shared stays shared."""

    def __init__(self, model: nn.Module, own_buffers: bool, own_parameters: bool) -> None:
        self._modules = {id(module): self._blank(module) for module in model.modules()}
        self._own_buffers, self._own_parameters = own_buffers, own_parameters
        self._seen: dict[int, Any] = {}
        self._keep_alive: list[Any] = []
        for module in model.modules():
            self._fill(module, self._modules[id(module)])

    def clone(self, module: nn.Module) -> nn.Module:
        return self._modules.get(id(module), module)

    @staticmethod
    def _blank(module: nn.Module) -> nn.Module:
        return object.__new__(uncaptured(type(module)))

    def _fill(self, source: nn.Module, target: nn.Module) -> None:
        for name, value in vars(source).items():
            if name not in (PLAIN, CHAINED) and (
                name == ATTRIBUTE or name.startswith("_fastmodel_")
            ):
                continue
            if name == "_compiled_call_impl":  # what `compile()` made holds for the original alone
                value = None
            target.__dict__[name] = self._copy(value)

    def _copy(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return self.clone(value)
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.clone(value.__self__))
        if type(value) is functools.partial:
            arguments = [self._copy(a) for a in value.args]
            return functools.partial(
                self._copy(value.func), *arguments, **self._copy(value.keywords)
            )
        if isinstance(value, _WrappedHook):
            return self._wrapped_hook(value)
        if type(value) in _CONTAINERS:
            return self._container(value)
        return value

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        is_parameter = isinstance(value, nn.Parameter)
        if not (self._own_parameters if is_parameter else self._own_buffers):
            return value
        if id(value) not in self._seen:
            made = value.detach().clone()
            if is_parameter:
                made = nn.Parameter(made)
            self._remember(value, made.requires_grad_(value.requires_grad))
        return self._seen[id(value)]

    def _wrapped_hook(self, value: _WrappedHook) -> _WrappedHook:
        """A state_dict hook that PyTorch ties to its module by a weak reference."""
        module = value.module() if value.with_module else None
        return _WrappedHook(self._copy(value.hook), None if module is None else self.clone(module))

    def _container(self, value: Any) -> Any:
        if id(value) in self._seen:
            return self._seen[id(value)]
        if isinstance(value, dict):
            made = self._remember(value, copy.copy(value))
            made.update((key, self._copy(item)) for key, item in value.items())
        elif isinstance(value, list):
            made = self._remember(value, [])
            made.extend(self._copy(item) for item in value)
        else:
            made = self._remember(value, type(value)(self._copy(item) for item in value))
        return made

    def _remember(self, value: Any, made: Any) -> Any:
        self._keep_alive.append(value)
        self._seen[id(value)] = made
        return made
