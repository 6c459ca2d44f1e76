"""A module's own forward as an FX graph, with the modules that it calls as leaves.

Each module is traced alone, so one that does not trace costs no other its swaps, and every module of the tree
still answers on its own as it did. A trace that would not hold in later calls is refused: what reads random
numbers, sets attributes, makes tensors or runs under no_grad or autocast.
"""

from __future__ import annotations

import operator
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.forward import CONSTANT_TYPES, Argument, signature_of
from fastmodel.optimize.graph_calls import AUGMENTED


class UntraceableError(Exception):
    """The forward has no graph that holds for every call; the text says why."""


def arguments_of(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[Argument, ...]:
    """What each parameter of a forward is taken for, as seen in one call.

    Raises:
        UntraceableError: the forward takes *args or **kwargs.
    """
    parameters = signature_of(type(module))
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY) for p in parameters):
        raise UntraceableError("its forward takes *args, **kwargs or keyword-only arguments")
    given = dict(zip((p.name for p in parameters), args, strict=False)) | kwargs
    found = []
    for parameter in parameters:
        value = given.get(parameter.name, parameter.default)
        kind = torch.Tensor if isinstance(value, torch.Tensor) else type(value)
        constant = value if kind in CONSTANT_TYPES else None
        if parameter.name not in given and kind not in CONSTANT_TYPES:
            raise UntraceableError(f"its forward has a default for {parameter.name!r} to read")
        found.append(Argument(parameter.name, parameter.default, kind, constant))
    return tuple(found)


def trace(module: nn.Module, arguments: tuple[Argument, ...], *, training: bool) -> fx.Graph:
    """The graph of a module's own forward in one mode.

    Raises:
        UntraceableError: there is none, or it would not hold for later calls.
    """
    copy = shared_clone(module, own_buffers=True)
    copy.training = training
    before, random_before = _attributes(copy), _random_state()
    try:
        graph = _Tracer(arguments).trace(copy)
    except UntraceableError:
        raise
    except Exception as error:  # whatever the model's author raises when given a proxy
        raise UntraceableError(f"its forward does not trace: {_first_line(error)}") from error
    finally:
        after = _random_state()
        _restore_random_state(random_before)
    if not _same(random_before, after):
        raise UntraceableError("its forward draws random numbers that a trace would fix")
    if any(n.op == "get_attr" and n.target.startswith("_tensor_constant") for n in graph.nodes):
        raise UntraceableError("its forward makes a tensor that does not depend on its inputs")
    changed = [name for name, value in _attributes(copy).items() if before.get(name) != value]
    if changed:
        raise UntraceableError(f"its forward sets self.{changed[0]}")
    return graph


def _ambient() -> tuple:
    """What a `with` block around some lines may change, and a graph would forget."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in ("cpu", "cuda")),
    )


class _Proxy(fx.Proxy):
    """FX's proxy, to which x += y is an assignment; FX's own takes it for x + y, and other names keep x."""


def _assigned(name: str) -> Callable[[_Proxy, Any], fx.Proxy]:
    target = getattr(operator, name)
    return lambda x, y: x.tracer.create_proxy("call_function", target, (x, y), {})


for _name in (f"i{name}" for name in AUGMENTED):
    setattr(_Proxy, f"__{_name}__", _assigned(_name))


class _Tracer(fx.Tracer):
    """FX's tracer: every module a leaf, constants fixed, one gradient mode and autocast state throughout."""

    proxy_buffer_attributes = True

    def __init__(self, arguments: tuple[Argument, ...]) -> None:
        super().__init__()
        self._arguments = arguments
        self._ambient = _ambient()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        return True

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        def value(argument: Argument):
            if not argument.is_traced:
                return argument.constant
            return self.create_proxy("placeholder", argument.name, (), {})

        return root_fn, [self.root, *map(value, self._arguments)]

    def create_node(self, kind, target, args, kwargs, name=None, type_expr=None):
        if _ambient() != self._ambient:
            raise UntraceableError("its forward changes gradient mode or autocast part of the way")
        return super().create_node(kind, target, args, kwargs, name, None)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]


def _attributes(module: nn.Module) -> dict[str, tuple]:
    """Fingerprints of a module's attributes, plain containers one level deep."""

    def fingerprint(value):
        if isinstance(value, dict):
            return tuple((key, id(item)) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return tuple(map(id, value))
        return (id(value),)

    return {name: fingerprint(value) for name, value in vars(module).items()}


def _random_state() -> list:
    numpy = sys.modules.get("numpy")
    return [torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None]


def _restore_random_state(state: list) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    if state[2] is not None:
        sys.modules["numpy"].random.set_state(state[2])


def _same(before: list, after: list) -> bool:
    return torch.equal(before[0], after[0]) and repr(before[1:]) == repr(after[1:])
