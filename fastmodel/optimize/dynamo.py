"""Places in forwards that FX cannot trace: read, and run, through Dynamo.

Dynamo follows the bytecode and hands over a graph for each stretch between two graph breaks; control flow on
values, attributes that are set, random numbers and gradient modes stay Python's. The places are matched in
these graphs. A module with such places runs its forward through `torch.compile` with a backend that puts the
fused functions into the graphs and runs them eagerly: nothing is compiled to machine code. Dynamo guards what
it saw and traces anew where that changed; the hooks of the modules that were absorbed it does not guard, so
they are looked at in each call.
"""

from __future__ import annotations

import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

import fastmodel.functional as fused_functions
from fastmodel.optimize import patterns
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.forward import DYNAMO, Watched, captured_class, uncaptured
from fastmodel.optimize.graph_steps import chain_of
from fastmodel.optimize.traced import UntraceableError
from fastmodel.optimize.trial import Examples, run_model

_FUNCTIONS: dict[str, Callable] = {
    "BatchNormReLU2d": fused_functions.batch_norm_relu,
    "ConvReLU2d": fused_functions.conv_relu,
    "ConvReLUMaxPool2d": fused_functions.conv_relu_maxpool,
    "LinearReLU": fused_functions.linear_relu,
    "LinearSigmoid": fused_functions.linear_sigmoid,
    "LinearTanh": fused_functions.linear_tanh,
    "LinearGELU": fused_functions.linear_gelu,
    "LinearSiLU": fused_functions.linear_silu,
    "Linear": fused_functions.linear,
    "LayerNorm": fused_functions.layer_norm,
    "RMSNorm": fused_functions.rms_norm,
}
_ANCHORS: dict[Callable, tuple[int, int]] = {
    torch.conv2d: (7, 1),
    F.conv2d: (7, 1),
    F.linear: (3, 1),
    torch._C._nn.linear: (3, 1),
    F.batch_norm: (8, 3),
    F.layer_norm: (5, 2),
    F.rms_norm: (4, 2),
}
"""The functions that anchors call: with how many arguments, and which of them is the weight."""

# The functions that the forward calls are shared too; from PyTorch 2.13 on they can be told apart.
_ISOLATED: dict[str, Any] = (
    {"isolate_recompiles": True}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters
    else {}
)

_MODULE = re.compile(r"\.([A-Za-z_]\w*)|\._modules\['([^']+)'\]")


@dataclass(frozen=True)
class DynamoPlace:
    """All calls of an anchor in a module's forward; the same steps follow each."""

    owner: str
    path: str
    """Of the anchor, below the owner."""
    match: patterns.Match
    absorbed: tuple[str, ...]
    """Paths of the modules that are taken in, below the owner, the anchor among them."""


@dataclass(frozen=True)
class _Found:
    """One call in one graph."""

    path: str
    chain: Any
    match: patterns.Match | patterns.Miss

    @property
    def absorbed(self) -> tuple[str, ...]:
        taken = self.match.absorbs if isinstance(self.match, patterns.Match) else 0
        nodes = (self.chain.anchor, *self.chain.nodes[:taken])
        return tuple(filter(None, map(_module_of, nodes)))


class DynamoForward:
    """What a module's forward runs instead: compiled when first called; a copy compiles its own."""

    def __init__(self, accepted: dict[str, str], watched: Sequence[Watched]) -> None:
        self.accepted, self.watched = accepted, tuple(watched)
        """Path to the pattern that is fused there."""
        self._compiled: Callable | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "watched": self.watched, "_compiled": None}

    def holds(self, owner: nn.Module) -> bool:
        """Is this a call that it stands for?"""
        return not torch.compiler.is_compiling() and all(w.is_in_place(owner) for w in self.watched)

    def run(self, owner: nn.Module, args: tuple, kwargs: dict) -> Any:
        """The forward with the accepted places fused."""
        if self._compiled is None:

            def backend(module: fx.GraphModule, inputs: list) -> Callable:
                return fuse(module, inputs, owner, self.accepted)

            self._compiled = _compiled(owner, backend)
        return _quietly(self._compiled, owner, args, kwargs)


def _compiled(owner: nn.Module, backend: Callable) -> Callable:
    forward = uncaptured(type(owner)).forward
    # Code of its own: what Dynamo keeps it keeps with the code, which instances would share.
    own = types.FunctionType(
        forward.__code__.replace(),
        forward.__globals__,
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    own.__kwdefaults__ = forward.__kwdefaults__
    return torch.compile(own, backend=backend, dynamic=False, **_ISOLATED)


def _quietly(function: Callable, owner: nn.Module, args: tuple, kwargs: dict) -> Any:
    with warnings.catch_warnings():
        # Dynamo's own look at what a graph break leaves behind, an error where warnings are errors.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        return function(owner, *args, **kwargs)


def explore(
    model: nn.Module, owner: str, examples: Examples
) -> dict[str, DynamoPlace | patterns.Miss]:
    """The anchors that one module's forward calls: path below it to place or reason.

    Raises:
        UntraceableError: Dynamo cannot follow it either.
    """
    kind = type(model.get_submodule(owner))
    if not isinstance(kind.forward, types.FunctionType):
        raise UntraceableError("its forward is no plain function")
    found: dict[str, list[_Found]] = {}
    for training in (False, True):
        copy = shared_clone(model, own_buffers=True)
        target = copy.get_submodule(owner)

        def record(module: fx.GraphModule, inputs: list, target=target) -> Callable:
            for one in _calls(module.graph, inputs, target):
                found.setdefault(one.path, []).append(one)
            return module.forward

        compiled = _compiled(target, record)
        target.__dict__["forward"] = lambda *args, compiled=compiled, target=target, **kwargs: (
            _quietly(compiled, target, args, kwargs)
        )
        try:
            run_model(copy, examples, training=training)
        except Exception as error:  # Dynamo's, or a training mode that does not take the examples
            if not training:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise UntraceableError(f"Dynamo does not follow it: {lines[0][:120]}") from error
    return {path: _place(owner, path, calls) for path, calls in found.items()}


def _place(owner: str, path: str, calls: list[_Found]) -> DynamoPlace | patterns.Miss:
    first = calls[0].match
    if any(type(c.match) is not type(first) or c.match.pattern != first.pattern for c in calls):
        return patterns.Miss(first.pattern, "what follows it differs between its calls")
    if isinstance(first, patterns.Miss):
        return first
    absorbed = dict.fromkeys(name for call in calls for name in call.absorbed)
    return DynamoPlace(owner, path, first, tuple(absorbed))


def swap(model: nn.Module, places: Sequence[DynamoPlace]) -> None:
    """Let one module of this copy of the model run through Dynamo with these places fused."""
    owner = model.get_submodule(places[0].owner)
    paths = dict.fromkeys(name for place in places for name in place.absorbed)
    watched = [Watched.of(path, owner.get_submodule(path)) for path in paths]
    accepted = {place.path: place.match.pattern for place in places}
    owner.__dict__[DYNAMO] = DynamoForward(accepted, watched)
    owner.__class__ = captured_class(type(owner))  # type: ignore[arg-type]


def fuse(
    module: fx.GraphModule, inputs: list, owner: nn.Module, accepted: dict[str, str]
) -> Callable:
    """Put the fused functions into one of Dynamo's graphs; the graph as a function."""
    graph = module.graph
    for one in list(_calls(graph, inputs, owner)):
        match = one.match
        if isinstance(match, patterns.Miss) or accepted.get(one.path) != match.pattern:
            continue
        anchor, absorbed = one.chain.anchor, one.chain.nodes[: match.absorbs]
        fused = match.make(owner.get_submodule(one.path))
        arguments = list(anchor.args)
        if isinstance(fused, nn.Conv2d) and hasattr(fused, "pool_kernel_size"):
            arguments += [fused.pool_kernel_size, fused.pool_stride, fused.pool_padding]
        anchor.target = _FUNCTIONS[type(fused).__name__]
        anchor.args = tuple(arguments)
        if absorbed:
            absorbed[-1].replace_all_uses_with(anchor)
        for node in reversed(absorbed):
            graph.erase_node(node)
    module.recompile()
    return module.forward


def _calls(graph: fx.Graph, inputs: list, owner: nn.Module) -> Iterator[_Found]:
    """The calls of the owner's anchors in a graph."""
    paths = {
        id(module.weight): name
        for name, module in owner.named_modules()
        if patterns.is_anchor(module) and module.weight is not None and name
    }
    weights = {
        node: paths[id(value)]
        for node, value in zip(
            (n for n in graph.nodes if n.op == "placeholder"), inputs, strict=True
        )
        if id(value) in paths
    }
    for node in graph.nodes:
        known = _ANCHORS.get(node.target) if node.op == "call_function" else None
        if known is None or len(node.args) != known[0] or node.kwargs:
            continue
        path = weights.get(node.args[known[1]])
        if path is None:
            continue
        chain = chain_of(owner, node)
        yield _Found(path, chain, patterns.match(owner.get_submodule(path), chain.steps))


def _module_of(node: fx.Node) -> str | None:
    """Path below the owner of the module whose call this node is from; None for the owner's own lines."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    if not stack:
        return None
    parts = _MODULE.findall(stack[-1][0].partition("]")[2])
    return ".".join(first or second for first, second in parts) or None
