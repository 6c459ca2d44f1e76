"""Places in a module's own forward: `F.max_pool2d(F.relu(self.conv(x)), 2)` and its like.

The calls are matched in the forward's graphs (one for training, one for evaluation), and the graphs call
fused modules instead. The module tree stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fastmodel.ops.batch_norm_relu.module import forward_of as batch_norm_relu_forward
from fastmodel.optimize import joins, patterns, runs
from fastmodel.optimize.forward import (
    FORWARD,
    Argument,
    Captured,
    TracedFunction,
    Watched,
    captured_class,
    plain_attributes,
)
from fastmodel.optimize.graph_steps import Chain, chain_of
from fastmodel.optimize.traced import UntraceableError, arguments_of, trace
from fastmodel.optimize.trial import Observation


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
                chain_of(owner, n, mode)
                for n in g.nodes
                if n.op == "call_module" and n.target == path
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
    matches: dict[bool, patterns.Match]
    """By mode; all of one pattern."""
    chains: dict[bool, Chain]

    @property
    def match(self) -> patterns.Match:
        """What is fused there."""
        return next(iter(self.matches.values()))


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
        matches = _matches(anchor, by_mode)
        if isinstance(matches, patterns.Miss):
            found.append(matches)
        else:
            found.append(TracedPlace(captured, path, ordinal, matches, by_mode))
    return found


@dataclass(frozen=True)
class JoinPlace:
    """All places of one op where values meet (joins.py), in one module's forward, in both modes."""

    capture: Capture
    op: str
    pattern: str
    count: int
    modules: tuple[str, ...]
    """Paths of the modules that are absorbed, below the owner."""


def find_joins(model: nn.Module, captured: Capture) -> list[JoinPlace]:
    """The joins of a captured forward, by op; those that both modes have alike."""
    owner = model.get_submodule(captured.owner)
    by_mode: list[dict[str, list[joins.Join]]] = []
    for graph in captured.graphs.values():
        by_op: dict[str, list[joins.Join]] = {}
        for join in joins.find(graph, owner):
            by_op.setdefault(join.op, []).append(join)
        by_mode.append(by_op)
    first, second = by_mode
    return [
        JoinPlace(
            captured,
            op,
            found[0].pattern,
            len(found),
            tuple(dict.fromkeys(path for join in found for path in join.modules)),
        )
        for op, found in first.items()
        if len(second.get(op, [])) == len(found)
    ]


def _matches(
    anchor: nn.Module, by_mode: dict[bool, Chain]
) -> dict[bool, patterns.Match] | patterns.Miss:
    """What fits in every mode: with the dropout that follows, or where the modes differ in it, without."""
    for takes_dropout in (True, False):
        found = {
            mode: patterns.match(
                anchor,
                chain.steps if takes_dropout else patterns.without_dropout(chain.steps),
                training=mode,
            )
            for mode, chain in by_mode.items()
        }
        first = next(iter(found.values()))
        if all(m.pattern == first.pattern for m in found.values()):
            refused = [m for m in found.values() if isinstance(m, patterns.Miss)]
            return refused[0] if refused else found  # type: ignore[return-value]
    return patterns.Miss(first.pattern, "what follows it differs between training and evaluation")


def swap(model: nn.Module, found: Sequence[TracedPlace | JoinPlace]) -> None:
    """Let one module of this copy of the model run its captured forward with these places fused."""
    captured = found[0].capture
    places = [place for place in found if isinstance(place, TracedPlace)]
    joined = [place for place in found if isinstance(place, JoinPlace)]
    owner = model.get_submodule(captured.owner)
    label = f"fastmodel {type(owner).__name__}.forward"
    watched: dict[str, Watched] = {}
    for place in places:
        for node in _absorbed(place):
            if node.op == "call_module":
                path = str(node.target)
                watched[path] = Watched.of(path, owner.get_submodule(path))
    for path in (path for place in joined for path in place.modules):
        watched[path] = Watched.of(path, owner.get_submodule(path))
    ops = [place.op for place in joined]
    functions = {
        mode: _function(owner, graph, places, ops, mode, label)
        for mode, graph in captured.graphs.items()
    }
    lines = [f"(fused) {place.path}: {place.match.pattern}" for place in places]
    lines += [f"(fused) {place.pattern}: {place.op}" for place in joined]
    owner.__dict__[FORWARD] = Captured(
        captured.arguments,
        plain_attributes(owner),
        tuple(watched.values()),
        functions[True],
        functions[False],
        "\n".join(lines),
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
    owner: nn.Module,
    graph: fx.Graph,
    places: Sequence[TracedPlace],
    ops: Sequence[str],
    mode: bool,
    label: str,
) -> TracedFunction:
    """The graph with the places fused, as a Python function."""
    twin: dict[fx.Node, Any] = {}
    copy = fx.Graph()
    copy.output(copy.graph_copy(graph, twin))
    for place in places:
        if mode not in place.chains:
            continue
        chain = place.chains[mode]
        anchor = owner.get_submodule(place.path)
        absorbed = [twin[node] for node in chain.nodes[: place.match.absorbs]]
        # The fused call stands where the anchor stood: what is written to its input later stays later.
        stand_in = _stand_in(place.matches[mode], anchor)
        twin[chain.anchor].target = runs.keep(owner, stand_in)
        if absorbed:
            absorbed[-1].replace_all_uses_with(twin[chain.anchor])
        for node in reversed(absorbed):
            copy.erase_node(node)
    met = [join for join in joins.find(copy, owner) if join.op in ops]
    joins.rewrite(copy, met, lambda module: runs.keep(owner, module))
    runs.join(copy, owner)
    code = copy.python_code("self")
    return TracedFunction(code.src, code.globals, f"{label} {'train' if mode else 'eval'}")
