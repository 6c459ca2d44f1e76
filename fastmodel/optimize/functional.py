"""Places in a module's own forward: `F.max_pool2d(F.relu(self.conv(x)), 2)` and its like.

The calls are matched in the forward's graphs (one for training, one for evaluation), and the graphs call
fused modules instead. The module tree stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastmodel.ops.batch_norm_relu.module import forward_of as batch_norm_relu_forward
from fastmodel.optimize import patterns
from fastmodel.optimize.forward import (
    FORWARD,
    FUSED_PREFIX,
    Argument,
    Captured,
    TracedFunction,
    Watched,
    captured_class,
    plain_attributes,
)
from fastmodel.optimize.traced import UntraceableError, arguments_of, trace
from fastmodel.optimize.trial import Observation

_RELU_FUNCTIONS = (F.relu, torch.relu, torch.relu_)
_RELU_METHODS = ("relu", "relu_")
_ACTIVATION_FUNCTIONS = {
    **dict.fromkeys((F.sigmoid, torch.sigmoid, torch.sigmoid_), "Sigmoid"),
    **dict.fromkeys((F.tanh, torch.tanh, torch.tanh_), "Tanh"),
    F.gelu: "GELU",
    F.silu: "SiLU",
}
_ACTIVATION_METHODS = {"sigmoid": "Sigmoid", "sigmoid_": "Sigmoid", "tanh": "Tanh", "tanh_": "Tanh"}
_POOL_FUNCTIONS = (F.max_pool2d, torch.max_pool2d, F.max_pool2d_with_indices)


@dataclass(frozen=True)
class Chain:
    """A call of an anchor in a graph, and the nodes after it as far as each has one reader."""

    anchor: fx.Node
    nodes: tuple[fx.Node, ...]
    steps: tuple[patterns.Step, ...]


@dataclass(frozen=True)
class Capture:
    """One module's forward, as seen on the example inputs."""

    owner: str
    arguments: tuple[Argument, ...]
    graphs: dict[bool, fx.Graph]
    """By `training`."""

    def chains(self, model: nn.Module, path: str) -> list[dict[bool, Chain]]:
        """The calls of one module, in order; each by mode, where that mode has it."""
        owner = model.get_submodule(self.owner)
        found = {
            mode: [
                chain_of(owner, n) for n in g.nodes if n.op == "call_module" and n.target == path
            ]
            for mode, g in self.graphs.items()
        }
        return [
            {mode: chains[i] for mode, chains in found.items() if i < len(chains)}
            for i in range(max(map(len, found.values())))
        ]


@dataclass(frozen=True)
class TracedPlace:
    """One call of an anchor in a captured forward, in every mode that has it."""

    capture: Capture
    path: str
    """Of the anchor, below the owner."""
    ordinal: int
    match: patterns.Match
    chains: dict[bool, Chain]


def capture(model: nn.Module, owner: str, seen: Observation) -> Capture:
    """Trace one module's own forward in both modes.

    Raises:
        UntraceableError: it has no graph that holds for every call.
    """
    module = model.get_submodule(owner)
    if type(module).__module__.startswith("torch."):
        raise UntraceableError(f"{type(module).__name__} is PyTorch's own, with its own fast paths")
    if "forward" in vars(module):
        raise UntraceableError("its forward was replaced on the instance")
    arguments = arguments_of(module, *seen.arguments[owner])
    graphs = {mode: trace(module, arguments, training=mode) for mode in (True, False)}
    return Capture(owner, arguments, graphs)


def find(
    model: nn.Module, anchor: nn.Module, captured: Capture
) -> list[TracedPlace | patterns.Miss]:
    """For each call of an anchor by the captured module: its place, or why there is none."""
    owner = model.get_submodule(captured.owner)
    path = next((name for name, module in owner.named_modules() if module is anchor), None)
    if path is None:
        return []
    found: list[TracedPlace | patterns.Miss] = []
    for ordinal, by_mode in enumerate(captured.chains(model, path)):
        matches = {mode: patterns.match(anchor, chain.steps) for mode, chain in by_mode.items()}
        first = next(iter(matches.values()))
        if any(m.pattern != first.pattern for m in matches.values()):
            reason = "what follows it differs between training and evaluation"
            found.append(patterns.Miss(first.pattern, reason))
        elif isinstance(first, patterns.Miss):
            found.append(first)
        else:
            found.append(TracedPlace(captured, path, ordinal, first, by_mode))
    return found


def swap(model: nn.Module, places: Sequence[TracedPlace]) -> None:
    """Let one module of this copy of the model run its captured forward with these places fused."""
    captured = places[0].capture
    owner = model.get_submodule(captured.owner)
    label = f"fastmodel {type(owner).__name__}.forward"
    functions = {
        mode: _function(graph, places, mode, label) for mode, graph in captured.graphs.items()
    }
    watched: dict[str, Watched] = {}
    for index, place in enumerate(places):
        anchor = owner.get_submodule(place.path)
        owner.__dict__[f"{FUSED_PREFIX}{index}"] = _stand_in(place.match, anchor)
        for node in _absorbed(place):
            if node.op == "call_module":
                path = str(node.target)
                watched[path] = Watched.of(path, owner.get_submodule(path))
    owner.__dict__[FORWARD] = Captured(
        captured.arguments,
        plain_attributes(owner),
        tuple(watched.values()),
        functions[True],
        functions[False],
        "\n".join(f"(fused) {place.path}: {place.match.pattern}" for place in places),
    )
    owner.__class__ = captured_class(type(owner))  # type: ignore[arg-type]


def _stand_in(match: patterns.Match, anchor: nn.Module) -> Callable[..., Any]:
    """What a graph calls in the place of an anchor, which stays in the tree."""
    if isinstance(anchor, nn.BatchNorm2d):
        # Over the anchor itself: its mode, options and statistics are those of the moment.
        return functools.partial(batch_norm_relu_forward, anchor)
    fused = match.make(anchor)
    # One dict for both: what is put in the place of a Parameter reaches the fused module too.
    fused.__dict__["_parameters"] = anchor._parameters
    return fused


def _absorbed(place: TracedPlace) -> list[fx.Node]:
    """The anchor and the nodes taken in, of every mode."""
    return [
        node
        for chain in place.chains.values()
        for node in (chain.anchor, *chain.nodes[: place.match.absorbs])
    ]


def _function(
    graph: fx.Graph, places: Sequence[TracedPlace], mode: bool, label: str
) -> TracedFunction:
    """The graph with the places fused, as a Python function."""
    twin: dict[fx.Node, Any] = {}
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, twin))
    for index, place in enumerate(places):
        if mode not in place.chains:
            continue
        chain = place.chains[mode]
        absorbed = [twin[node] for node in chain.nodes[: place.match.absorbs]]
        # The fused call stands where the anchor stood: what is written to its input later stays later.
        twin[chain.anchor].target = f"{FUSED_PREFIX}{index}"
        absorbed[-1].replace_all_uses_with(twin[chain.anchor])
        for node in reversed(absorbed):
            copy.erase_node(node)
    code = copy.python_code("self")
    return TracedFunction(code.src, code.globals, f"{label} {'train' if mode else 'eval'}")


def chain_of(owner: nn.Module, anchor: fx.Node) -> Chain:
    """What follows a call, as far as each value has one reader."""
    nodes: list[fx.Node] = []
    steps: list[patterns.Step] = []
    value = anchor
    while len(steps) < 3:
        readers = list(value.users)
        if len(readers) != 1:
            label = f"{len(readers)} readers" if readers else "no reader"
            steps.append(patterns.Step("fork", label))
            break
        step = _step(owner, readers[0], value)
        nodes.append(readers[0])
        steps.append(step)
        value = readers[0]
        if step.kind == "other" and value.op == "output":
            break
    return Chain(anchor, tuple(nodes), tuple(steps))


def _step(owner: nn.Module, node: fx.Node, value: fx.Node) -> patterns.Step:
    """What a node does with the value that it reads."""
    if node.op == "call_module":
        module = owner.get_submodule(str(node.target))
        step = patterns.step_of_module(module)
        reads_it_alone = node.args == (value,) and not node.kwargs
        # A dropout stays in the tree, with a mode and a p of its own, and has to be asked for both.
        is_taken_in = reads_it_alone and step.dropout is None
        return step if is_taken_in else patterns.Step("other", step.label)
    if node.op == "output":
        return patterns.Step("other", "returned")
    if node.op == "call_method":
        if node.target in _RELU_METHODS:
            return patterns.relu_step(node.target == "relu_")
        if node.target in _ACTIVATION_METHODS:
            return patterns.activation_step(_ACTIVATION_METHODS[node.target])
        return patterns.Step("other", f"x.{node.target}()")
    if node.target in _RELU_FUNCTIONS:
        return patterns.relu_step(node.target is torch.relu_ or _is_inplace(node))
    if node.target in _ACTIVATION_FUNCTIONS:
        name = _ACTIVATION_FUNCTIONS[node.target]
        approximate = str(node.kwargs.get("approximate", "none"))
        return patterns.activation_step(name, approximate, name == "SiLU" and _is_inplace(node))
    if node.target in _POOL_FUNCTIONS:
        return _pool_step(node, value)
    return patterns.Step("other", getattr(node.target, "__name__", str(node.target)))


def _is_inplace(node: fx.Node) -> bool:
    return bool(node.kwargs.get("inplace", len(node.args) > 1 and node.args[1]))


_POOL_DEFAULTS = {
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "ceil_mode": False,
    "return_indices": False,
}


def _pool_step(node: fx.Node, value: fx.Node) -> patterns.Step:
    """A functional max-pool, read as the nn.MaxPool2d that it equals."""
    names = ("input", "kernel_size", *_POOL_DEFAULTS)
    given: dict[str, Any] = {
        **_POOL_DEFAULTS,
        **dict(zip(names, node.args, strict=False)),
        **node.kwargs,
    }
    given.pop("input")
    if any(isinstance(argument, fx.Node) for argument in node.all_input_nodes if argument != value):
        return patterns.Step("pool", "MaxPool2d", "the pool's window is computed in the forward")
    given = {key: tuple(v) if isinstance(v, (list, tuple)) else v for key, v in given.items()}
    given["stride"] = given["stride"] if given["stride"] not in (None, ()) else given["kernel_size"]
    given["return_indices"] |= node.target is F.max_pool2d_with_indices
    pool = nn.MaxPool2d(**given)
    return patterns.Step("pool", "MaxPool2d", patterns.pool_refusal(pool), pool, plain=pool)
