"""Places in forwards that FX cannot trace: read, and run, through Dynamo.

Dynamo follows the bytecode and hands over a graph for each stretch between two graph breaks; control flow on
values, attributes that are set, random numbers and gradient modes stay Python's. The places are matched in
these graphs. A module with such places runs its forward through `torch.compile` with a backend that puts the
fused functions into the graphs and runs them eagerly: nothing is compiled to machine code. Dynamo guards what
it saw, hooks that modules get later among it, and traces anew where that changed; where a module that was
absorbed gets one, the forward runs as its author wrote it. The graphs of a forward hold those that it calls:
whose lines are whose, `dynamo_graph.py` tells.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

import fastmodel.functional as fused_functions
from fastmodel.optimize import joins, patterns
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.dynamo_graph import Call, Meeting, Reading
from fastmodel.optimize.forward import DYNAMO, Watched, captured_class, uncaptured
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
# The functions that the forward calls are shared too; from PyTorch 2.13 on they can be told apart.
_ISOLATED: dict[str, Any] = (
    {"isolate_recompiles": True}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters
    else {}
)


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
class DynamoJoin:
    """All places of one op where values meet (joins.py), in a module's forward."""

    owner: str
    op: str
    pattern: str
    absorbed: tuple[str, ...]
    """As DynamoPlace's."""


@dataclass(frozen=True)
class Followed:
    """What Dynamo found in one module's forward."""

    anchors: dict[str, DynamoPlace | patterns.Miss]
    """By path below the module."""
    joins: tuple[DynamoJoin, ...]


@dataclass(frozen=True)
class Accepted:
    """What is fused in the graphs of a module's forward, and of those that it calls."""

    patterns: dict[str, str]
    """Path of an anchor to what is fused there."""
    joins: frozenset[tuple[str, str]]
    """Path of a module and the op that is put into its forward."""
    watched: tuple[Watched, ...]
    """What is absorbed; all paths are below the module."""


class DynamoForward:
    """What a module's forward runs instead: compiled when first called; a copy compiles its own."""

    def __init__(self, accepted: Accepted) -> None:
        self.accepted = accepted
        self._compiled: Callable | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"accepted": self.accepted, "_compiled": None}

    def holds(self, owner: nn.Module) -> bool:
        """Is this a call that it stands for?"""
        watched = self.accepted.watched
        return not torch.compiler.is_compiling() and all(w.is_in_place(owner) for w in watched)

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
    # Else Dynamo takes it that no module gets a hook once it has been called.
    with warnings.catch_warnings(), _guards_hooks():
        # Dynamo's own look at what a graph break leaves behind, an error where warnings are errors.
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
        return function(owner, *args, **kwargs)


def _guards_hooks() -> contextlib.AbstractContextManager:
    return torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)


def explore(model: nn.Module, owner: str, examples: Examples) -> Followed:
    """The anchors that one module's forward calls, and the places in it where values meet.

    Raises:
        UntraceableError: Dynamo cannot follow it either.
    """
    kind = type(model.get_submodule(owner))
    if not isinstance(kind.forward, types.FunctionType):
        raise UntraceableError("its forward is no plain function")
    found: dict[str, list[Call]] = {}
    met: dict[str, list[Meeting]] = {}
    for training in (False, True):
        copy = shared_clone(model, own_buffers=True)
        target = copy.get_submodule(owner)

        def record(module: fx.GraphModule, inputs: list, target=target) -> Callable:
            reading = Reading(module.graph, inputs, target)
            for one in reading.calls():
                found.setdefault(one.path, []).append(one)
            for place in reading.meetings():
                if not place.caller:
                    met.setdefault(place.join.op, []).append(place)
            return module.forward

        compiled = _compiled(target, record)
        target.__dict__["forward"] = lambda *args, compiled=compiled, target=target, **kwargs: (
            _quietly(compiled, target, args, kwargs)
        )
        try:
            run_model(copy, examples, training=training, with_gradients=True)
        except Exception as error:  # Dynamo's, or a training mode that does not take the examples
            if not training:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                raise UntraceableError(f"Dynamo does not follow it: {lines[0][:120]}") from error
    anchors = {path: _place(owner, path, calls) for path, calls in found.items()}
    joins = (
        DynamoJoin(owner, op, places[0].join.pattern, _once(place.absorbed for place in places))
        for op, places in met.items()
    )
    return Followed(anchors, tuple(joins))


def _once(paths: Iterable[Sequence[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(itertools.chain.from_iterable(paths)))


def _place(owner: str, path: str, calls: list[Call]) -> DynamoPlace | patterns.Miss:
    first = calls[0].match
    if any(type(c.match) is not type(first) or c.match.pattern != first.pattern for c in calls):
        return patterns.Miss(first.pattern, "what follows it differs between its calls")
    if isinstance(first, patterns.Miss):
        return first
    return DynamoPlace(owner, path, first, _once(call.absorbed for call in calls))


def swap(model: nn.Module, places: Sequence[DynamoPlace | DynamoJoin]) -> None:
    """Let the owners of these places, in this copy of the model, run through Dynamo with them fused.

    An owner's graphs hold the forwards of those that it calls, so it takes over the places below it.
    """
    for name in dict.fromkeys(place.owner for place in places):
        owner = model.get_submodule(name)
        within = [place for place in places if _is_within(place.owner, name)]
        below = {place.owner: place.owner[len(name) :].lstrip(".") for place in within}
        absorbed = _once(
            [_joined(below[place.owner], path) for path in place.absorbed] for place in within
        )
        owner.__dict__[DYNAMO] = DynamoForward(
            Accepted(
                {
                    _joined(below[place.owner], place.path): place.match.pattern
                    for place in within
                    if isinstance(place, DynamoPlace)
                },
                frozenset(
                    (below[place.owner], place.op)
                    for place in within
                    if isinstance(place, DynamoJoin)
                ),
                tuple(Watched.of(path, owner.get_submodule(path)) for path in absorbed),
            )
        )
        owner.__class__ = captured_class(type(owner))  # type: ignore[arg-type]


def _is_within(path: str, owner: str) -> bool:
    return not owner or path == owner or path.startswith(f"{owner}.")


def _joined(*parts: str) -> str:
    return ".".join(filter(None, parts))


def fuse(module: fx.GraphModule, inputs: list, owner: nn.Module, accepted: Accepted) -> Callable:
    """Put the fused functions into one of Dynamo's graphs; the graph as a function."""
    graph, reading = module.graph, Reading(module.graph, inputs, owner)
    for one in list(reading.calls()):
        match = one.match
        if isinstance(match, patterns.Miss) or accepted.patterns.get(one.path) != match.pattern:
            continue
        anchor, absorbed = one.chain.anchor, one.chain.nodes[: match.absorbs]
        fused = match.make(owner.get_submodule(one.path))
        arguments: list[Any] = list(anchor.args)
        if isinstance(fused, nn.Conv2d) and hasattr(fused, "pool_kernel_size"):
            arguments += [fused.pool_kernel_size, fused.pool_stride, fused.pool_padding]
        anchor.target = _FUNCTIONS[type(fused).__name__]
        anchor.args = tuple(arguments)
        if absorbed:
            absorbed[-1].replace_all_uses_with(anchor)
        for node in reversed(absorbed):
            graph.erase_node(node)
    met = [
        place.join
        for place in reading.meetings()
        if (place.caller, place.join.op) in accepted.joins
    ]
    joins.rewrite(graph, met)
    module.recompile()
    return module.forward
