"""The forward of a captured module: the traced one where it holds, the class's own everywhere else.

The model itself may also have an entry, which lays its images out channels_last or runs it under autocast.

A trace holds for what it saw: these kinds of arguments, these Python attributes, nobody listening to the
modules that were absorbed. Each call checks that. So a hook that is registered later, an adapter put in the
place of a Conv2d, another flag among the arguments: each gets exactly what the plain model would do.

The fused modules lie outside the module tree and share the `_parameters` dict of the Conv2d or Linear that
they stand for (a batch norm is called itself, through the fused forward); `.to()`,
`load_state_dict(assign=True)` and `functional_call` reach both at once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import linecache
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel.optimize.patterns import has_hooks

FORWARD = "_fastmodel_forward"
ENTRY = "_fastmodel_entry"
DYNAMO = "_fastmodel_dynamo"
KEPT_PREFIX = "_fastmodel_kept_"
"""Of what the traced functions call beside the module tree."""

CONSTANT_TYPES = (type(None), bool, int, float, str)
"""Values that a trace fixes, and that a call is held against."""


@dataclass(frozen=True)
class Argument:
    """One parameter of a forward, and what the trace took it for."""

    name: str
    default: Any
    kind: type
    """torch.Tensor, or the exact type of the value."""
    constant: Any = None
    """The value itself, where its type is among CONSTANT_TYPES."""

    @property
    def is_traced(self) -> bool:
        """Does the traced function take it (or was it fixed)?"""
        return self.kind not in CONSTANT_TYPES

    def fits(self, value: Any) -> bool:
        """May the trace stand in for a call with this value?"""
        if self.kind is torch.Tensor:
            return isinstance(value, torch.Tensor)
        return type(value) is self.kind and (self.is_traced or value == self.constant)


class TracedFunction:
    """A function made from a graph's source; pickled as that source."""

    def __init__(self, source: str, names: dict[str, Any], label: str) -> None:
        self.source, self.names, self.label = source, names, label
        filename = f"<{label} {abs(hash(source)):x}>"
        # Tracebacks and torch.compile look the source lines up here.
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        scope = dict(names)
        exec(compile(source, filename, "exec"), scope)
        self.function = scope["forward"]

    def __reduce__(self):
        modules = {k: v.__name__ for k, v in self.names.items() if isinstance(v, types.ModuleType)}
        others = {k: v for k, v in self.names.items() if k not in modules}
        return _traced_function, (self.source, modules, others, self.label)

    def __deepcopy__(self, memo) -> TracedFunction:
        return self  # it holds no state


def _traced_function(source, modules, others, label) -> TracedFunction:
    imported = {name: importlib.import_module(path) for name, path in modules.items()}
    return TracedFunction(source, imported | others, label)


@dataclass(frozen=True)
class Watched:
    """A module that the trace absorbed, and where it has to be found again."""

    path: tuple[str, ...]
    module: nn.Module
    kind: type
    parameters: int
    dropout_p: float | None
    """Of an nn.Dropout, which also has to be in its owner's mode."""

    @classmethod
    def of(cls, path: str, module: nn.Module) -> Watched:
        p = module.p if type(module) is nn.Dropout else None
        kind = uncaptured(type(module))
        return cls(tuple(path.split(".")), module, kind, len(module._parameters), p)

    def is_in_place(self, owner: nn.Module) -> bool:
        """Is it still the module called there, of its class, with its Parameters and without hooks?"""
        found: nn.Module | None = owner
        for key in self.path:
            if found is None:
                return False
            found = found._modules.get(key)
        return (
            found is self.module
            and uncaptured(type(found)) is self.kind
            and len(found._parameters) == self.parameters
            and not has_hooks(found)
            and (self.dropout_p is None or self._drops_as_it_did(owner))
        )

    def _drops_as_it_did(self, owner: nn.Module) -> bool:
        return self.module.p == self.dropout_p and self.module.training == owner.training


@dataclass(frozen=True)
class Captured:
    """What a captured module's forward runs, and when."""

    arguments: tuple[Argument, ...]
    attributes: tuple[tuple[str, Any], ...]
    """The module's plain Python attributes as they were when it was traced."""
    watched: tuple[Watched, ...]
    in_training: TracedFunction
    in_evaluation: TracedFunction
    summary: str

    def admit(self, owner: nn.Module, args: tuple, kwargs: dict) -> list | None:
        """The traced function's arguments for this call, or None where the trace does not hold for it."""
        if len(args) > len(self.arguments):
            return None
        values, taken = [], 0
        for position, argument in enumerate(self.arguments):
            if position < len(args):
                value = args[position]
            elif argument.name in kwargs:
                value = kwargs[argument.name]
                taken += 1
            else:
                value = argument.default
            if not argument.fits(value):
                return None
            if argument.is_traced:
                values.append(value)
        if taken != len(kwargs):
            return None
        attributes = owner.__dict__
        for name, constant in self.attributes:
            if attributes.get(name) != constant:
                return None
        for watched in self.watched:
            if not watched.is_in_place(owner):
                return None
        return values


@dataclass(frozen=True)
class Entry:
    """What happens to a model's call before its forward."""

    channels_last: bool = False
    """Images among the arguments are laid out channels_last; what follows keeps that layout."""
    autocast: torch.dtype | None = None

    def arguments(self, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """The call's arguments as the forward gets them."""
        if not self.channels_last:
            return args, kwargs
        return pytree.tree_map_only(torch.Tensor, channels_last, (args, kwargs))

    def context(self, args: tuple, kwargs: dict) -> contextlib.AbstractContextManager:
        """What the forward runs under."""
        if self.autocast is None:
            return contextlib.nullcontext()
        leaves = pytree.tree_leaves((args, kwargs))
        device = next((t.device.type for t in leaves if isinstance(t, torch.Tensor)), "cpu")
        return torch.autocast(device, self.autocast)


def is_image(value: Any) -> bool:
    """Is it a batch of images whose layout can be channels_last?"""
    return isinstance(value, torch.Tensor) and value.dim() == 4 and value.is_floating_point()


def channels_last(value: torch.Tensor) -> torch.Tensor:
    """A batch of images laid out channels_last; any other tensor as it is."""
    return value.contiguous(memory_format=torch.channels_last) if is_image(value) else value


def plain_attributes(module: nn.Module) -> tuple[tuple[str, Any], ...]:
    """The attributes of a module that a forward may branch on; `training` has a trace for each value."""
    return tuple(
        (name, value)
        for name, value in vars(module).items()
        if type(value) in CONSTANT_TYPES and name not in ("training", "_is_full_backward_hook")
    )


class _Unannounced(nn.Module):
    """Keeps a new subclass from its author's `__init_subclass__`: registries list what people wrote."""

    def __init_subclass__(cls) -> None:
        pass


@functools.cache
def captured_class(base: type[nn.Module]) -> type[nn.Module]:
    """`base` with a forward that does its entry and runs what was captured; same name, pickled as `base`."""

    @functools.wraps(base.forward)
    def forward(self, *args, **kwargs):
        entry = self.__dict__.get(ENTRY)
        # An exported program is to hold PyTorch's own ops alone.
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            return base.forward(self, *args, **kwargs)
        if entry is None:
            return run(self, args, kwargs)
        with entry.context(args, kwargs):
            return run(self, *entry.arguments(args, kwargs))

    def run(self, args, kwargs):
        captured = self.__dict__.get(FORWARD)
        values = None if captured is None else captured.admit(self, args, kwargs)
        if values is None:
            dynamo = self.__dict__.get(DYNAMO)
            if dynamo is not None and dynamo.holds(self):
                return dynamo.run(self, args, kwargs)
            return base.forward(self, *args, **kwargs)
        traced = captured.in_training if self.training else captured.in_evaluation
        return traced.function(self, *values)

    def extra_repr(self) -> str:
        captured = self.__dict__.get(FORWARD)
        summary = "" if captured is None else captured.summary
        return "\n".join(filter(None, [base.extra_repr(self), summary]))

    def reduce_ex(self, protocol):
        reduced = base.__reduce_ex__(self, max(protocol, 2))
        if isinstance(reduced, tuple) and reduced[1][:1] == (type(self),):
            return _blank, (base, *reduced[1][1:]), *reduced[2:]
        return reduced

    body = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "__reduce_ex__": reduce_ex,
        "_fastmodel_base": base,
        "forward": forward,
        "extra_repr": extra_repr,
    }
    return types.new_class(
        base.__name__, (_Unannounced, base), {}, lambda space: space.update(body)
    )


def _blank(base: type[nn.Module], *args) -> nn.Module:
    kind = captured_class(base)  # type: ignore[arg-type]
    return kind.__new__(kind, *args)


def uncaptured(kind: type[nn.Module]) -> type[nn.Module]:
    """The class as its author wrote it."""
    return vars(kind).get("_fastmodel_base", kind)


def signature_of(kind: type[nn.Module]) -> list[inspect.Parameter]:
    """The parameters of a class's forward, self left out."""
    return list(inspect.signature(kind.forward).parameters.values())[1:]
