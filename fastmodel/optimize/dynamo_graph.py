"""Dynamo's graphs: whose lines a node is from, the calls of anchors, and the places where values meet.

Dynamo inlines the modules that a forward calls; which they were it leaves with each node. After a graph break
inside of one it starts anew from that one's forward, so the frame that a graph is of is looked up too.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastmodel.optimize import joins, patterns
from fastmodel.optimize.graph_steps import Chain, chain_of

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

_AMBIENT = ("_set_grad_enabled", "_enter_", "_exit_")
"""How the names of functions begin that change gradient mode, autocast and the like for those after them."""

_MODULE = re.compile(r"\.(\w+)|\._modules\['([^']+)'\]")


@dataclass(frozen=True)
class Call:
    """One call of an anchor."""

    path: str
    """Of the anchor, below the owner."""
    chain: Chain
    match: patterns.Match | patterns.Miss
    absorbed: tuple[str, ...]
    """Paths of the modules that are taken in, below the owner, the anchor among them."""


@dataclass(frozen=True)
class Meeting:
    """One place where values meet."""

    join: joins.Join
    caller: str
    """Path of the module whose forward holds all of it, below the owner."""
    absorbed: tuple[str, ...]
    """Paths of the modules between, whose own lines are taken in."""


@dataclass(frozen=True)
class _Span:
    """Where some nodes are from."""

    caller: str | None
    """The innermost module in whose call all of them are; None for the one that the graph starts in."""
    absorbed: tuple[str, ...]
    """Those in whose calls some are."""


class Reading:
    """One graph, read for a module in whose forward it was made."""

    def __init__(self, graph: fx.Graph, inputs: Sequence, owner: nn.Module) -> None:
        self._graph, self._owner = graph, owner
        self._names = {str(id(module)): name for name, module in owner.named_modules()}
        given = (node for node in graph.nodes if node.op == "placeholder")
        self._inputs = dict(zip(given, inputs, strict=True))
        self._stretches = self._numbered()
        self._frame = self._of_frame()

    def calls(self) -> Iterator[Call]:
        """The calls of the owner's anchors."""
        paths = {
            id(module.weight): name
            for name, module in self._owner.named_modules()
            if patterns.is_anchor(module) and module.weight is not None and name
        }
        for node in self._graph.nodes:
            known = _ANCHORS.get(node.target) if node.op == "call_function" else None
            if known is None or len(node.args) != known[0] or node.kwargs:
                continue
            path = paths.get(id(self._inputs.get(node.args[known[1]])))
            if path is not None:
                yield self._call(path, node)

    def _call(self, path: str, node: fx.Node) -> Call:
        chain = chain_of(self._owner, node)
        match = patterns.match(self._owner.get_submodule(path), chain.steps)
        if isinstance(match, patterns.Miss):
            return Call(path, chain, match, (path,))
        nodes = (node, *chain.nodes[: match.absorbs])
        span = self._span(nodes)
        absorbed = tuple(dict.fromkeys([path, *([] if span is None else span.absorbed)]))
        refusal = self._refusal(nodes, span, absorbed)
        found = match if refusal is None else patterns.Miss(match.pattern, refusal)
        return Call(path, chain, found, absorbed)

    def meetings(self) -> Iterator[Meeting]:
        """The places where values meet, of which is known in whose forward they do."""
        for join in joins.find(self._graph, self._owner):
            span = self._span(join.nodes)
            if span is None or self._refusal(join.nodes, span, span.absorbed) is not None:
                continue
            caller = span.caller or self._frame
            if caller is not None:
                yield Meeting(join, caller, span.absorbed)

    def _refusal(
        self, nodes: Sequence[fx.Node], span: _Span | None, absorbed: Sequence[str]
    ) -> str | None:
        """Why nodes that fit by what they compute are not to be one call."""
        if span is None:
            return "it is in a module that is not in the tree"
        if len({self._stretches[node] for node in nodes}) > 1:
            return "gradient mode or autocast changes part of the way"
        for name in absorbed:
            module = self._owner.get_submodule(name)
            if patterns.has_hooks(module):
                return f"the {type(module).__name__} has hooks"
        return None

    def _span(self, nodes: Sequence[fx.Node]) -> _Span | None:
        """Which modules hold these nodes; None where one of them is not below the owner."""
        stacks: list[list[str]] = []
        for node in nodes:
            names = [self._name_of(key) for key in _stack(node)]
            stacks.append([name for name in names if name is not None])
            if len(stacks[-1]) < len(names):
                return None
        shared = [level[0] for level in itertools.takewhile(_are_one, zip(*stacks, strict=False))]
        rest = (name for stack in stacks for name in stack[len(shared) :])
        return _Span(shared[-1] if shared else None, tuple(dict.fromkeys(rest)))

    def _of_frame(self) -> str | None:
        """The module whose forward the graph starts in: what its source calls "norm" is "layers.0.norm"."""
        for node in self._graph.nodes:
            for key, (source, _) in list(_stack(node).items())[:1]:
                found = _MODULE.findall(source.partition("]")[2])
                within = ".".join(first or second for first, second in found)
                name = self._name_of(key)
                if within and name is not None and f".{name}".endswith(f".{within}"):
                    return name.removesuffix(within).removesuffix(".")
        return None

    def _name_of(self, key: str) -> str | None:
        """Dynamo's keys are identities, of a second call with its number."""
        return self._names.get(key.partition("@")[0])

    def _numbered(self) -> dict[fx.Node, int]:
        """Which stretch of one gradient mode and autocast a node is in."""
        number, found = 0, {}
        for node in self._graph.nodes:
            name = getattr(node.target, "__name__", "")
            number += node.op == "call_function" and name.startswith(_AMBIENT)
            found[node] = number
        return found


def _stack(node: fx.Node) -> dict[str, tuple[str, type]]:
    """The modules in whose calls a node is, outermost first; not the one that its graph starts in."""
    return node.meta.get("nn_module_stack", {})


def _are_one(names: tuple[str, ...]) -> bool:
    return len(set(names)) == 1
