"""Calls of a module with any arguments: caught as the model makes them, and made again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.trial import Examples, run_model

UNLIKE = "its module is called otherwise without gradients than with them"
"""Why a call could not be caught."""
_PLAIN = (type(None), bool, int, float, complex, str, torch.dtype, torch.device)
"""Of arguments what a call cannot change."""


@dataclass(frozen=True)
class Call:
    """What a module was called with."""

    values: tuple[Any, ...]
    """The leaves of its arguments; tensors are copies, and leaves of autograd's too."""
    spec: pytree.TreeSpec
    requires: tuple[bool, ...]
    """Which of them require a gradient in training."""

    def fresh(self, dtype: torch.dtype | None = None) -> tuple[list[Any], list[Tensor]]:
        """Leaves for one more call, floating tensors in a dtype, and those whose gradients are wanted."""
        values, wanted = [], []
        for value, requires in zip(self.values, self.requires, strict=True):
            if isinstance(value, Tensor):
                is_cast = dtype is not None and value.is_floating_point()
                value = (
                    value.detach().to(dtype if is_cast else value.dtype).requires_grad_(requires)
                )
                wanted += [value] * requires
            elif not isinstance(value, _PLAIN):
                value = copy.deepcopy(value)  # a cache of keys and values, which the call fills
            values.append(value)
        return values, wanted

    def of(self, module: nn.Module, values: list[Any]) -> list[Tensor]:
        """The module's floating outputs. It may write to what it is given: no leaves of autograd's are."""
        values = [v.clone() if isinstance(v, Tensor) and v.requires_grad else v for v in values]
        args, kwargs = pytree.tree_unflatten(values, self.spec)
        leaves = pytree.tree_leaves(module(*args, **kwargs))
        return [v for v in leaves if isinstance(v, Tensor) and v.is_floating_point()]

    def map(self, function: Callable[[Tensor], Tensor]) -> Call:
        """The same with a function applied to every tensor."""
        values = (function(v.detach()) if isinstance(v, Tensor) else v for v in self.values)
        return replace(self, values=tuple(values))

    @property
    def key(self) -> tuple:
        """Equal for calls that take equally long."""
        return (self.requires, *map(_brief, self.values))


def _brief(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return value if isinstance(value, _PLAIN) else type(value)


def caught(model: nn.Module, examples: Examples, names: set[str]) -> dict[str, Call]:
    """The first call of each of these modules, as a training step makes it."""
    requires = {
        name: tuple(isinstance(v, Tensor) and v.requires_grad for v in values)
        for name, (values, _) in _observed(model, examples, names, with_gradients=True).items()
    }
    # Without gradients what is not a tensor holds none that could not be copied.
    found = _observed(model, examples, names, with_gradients=False)
    return {
        name: Call(tuple(values), spec, requires[name])
        for name, (values, spec) in found.items()
        if name in requires and len(requires[name]) == len(values)
    }


def _observed(
    model: nn.Module, examples: Examples, names: set[str], *, with_gradients: bool
) -> dict[str, tuple[list[Any], pytree.TreeSpec]]:
    twin = shared_clone(model, own_buffers=True)
    found: dict[str, tuple[list[Any], pytree.TreeSpec]] = {}

    def enter(name: str, args: tuple, kwargs: dict) -> None:
        if name in found:
            return
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if with_gradients:
            found[name] = leaves, spec
        else:
            found[name] = [_copied(leaf) for leaf in leaves], spec

    for name in names:
        twin.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: enter(name, args, kwargs), with_kwargs=True
        )
    run_model(twin, examples, training=False, with_gradients=with_gradients)
    return found


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return value if isinstance(value, _PLAIN) else copy.deepcopy(value)


def pass_of(module: nn.Module, call: Call) -> Callable[[], None]:
    """Forward and, where anything wants a gradient, backward, to be timed."""
    grads: list[Tensor] = []
    parameters = [p for p in module.parameters() if p.requires_grad]

    def run() -> None:
        values, inputs = call.fresh()
        sent = [out for out in call.of(module, values) if out.requires_grad]
        wanted = [*inputs, *parameters]
        if not (sent and wanted):
            return
        if not grads:
            grads.extend(map(torch.randn_like, sent))
        torch.autograd.grad(sent, wanted, grads, allow_unused=True)

    return run
