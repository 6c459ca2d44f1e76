"""Fused modules that follow one another in a captured graph: one call, which may be one node of autograd's.

What `fm.nn.Sequential` is to its children, a run is to the calls of a forward: nothing but their order. Which
modules are called, with which hooks, modes and Parameters, is looked up in each call, and where the chain may
not run they are called one by one (ops/neighbours.py). So only what the graph says has to hold here: each
value has one reader, and the calls stand next to each other, so that none is moved past another line.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn

from fastmodel.ops import neighbours
from fastmodel.optimize.forward import KEPT_PREFIX


class Run:
    """The call of modules in turn; keeps what their chains learn (copies and pickles do not)."""

    def __call__(self, x: Any, modules: tuple[nn.Module, ...]) -> Any:
        """What the modules make of x, one after the other."""
        return neighbours.run(modules, x, self)


def keep(owner: nn.Module, value: Any) -> str:
    """Put something that a traced function calls into its module, beside the tree; its name there."""
    number = sum(name.startswith(KEPT_PREFIX) for name in vars(owner))
    name = f"{KEPT_PREFIX}{number}"
    owner.__dict__[name] = value
    return name


def join(graph: fx.Graph, owner: nn.Module) -> None:
    """Make each run of two fused modules and more one call."""
    _flatten_views(graph, owner)
    for nodes in list(_runs(graph, owner)):
        modules = [module for node in nodes if (module := _module_of(node, owner)) is not None]
        if sum(map(neighbours.is_fused, modules)) < 2:
            continue
        targets = [
            str(node.target) if node.op == "call_module" else keep(owner, module)
            for node, module in zip(nodes, modules, strict=True)
        ]
        with graph.inserting_before(nodes[0]):
            called = tuple(map(graph.get_attr, targets))
            joined = graph.call_module(keep(owner, Run()), (nodes[0].args[0], called))
        nodes[-1].replace_all_uses_with(joined)
        for node in reversed(nodes):
            graph.erase_node(node)


def _runs(graph: fx.Graph, owner: nn.Module) -> Iterator[list[fx.Node]]:
    """The longest runs of calls that may be links, each the only reader of the one right before it."""
    run: list[fx.Node] = []
    for node in graph.nodes:
        is_link = _module_of(node, owner) is not None
        if run and not (is_link and node.args[0] is run[-1] and len(run[-1].users) == 1):
            yield run
            run = []
        if is_link:
            run.append(node)


def _module_of(node: fx.Node, owner: nn.Module) -> nn.Module | None:
    """The module that a call is, or that it equals; None for what is no link."""
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        called = operator.attrgetter(str(node.target))(owner)
        is_link = isinstance(called, nn.Module) and neighbours.may_link(called)
        return called if is_link else None
    is_flatten = node.target is torch.flatten if node.op == "call_function" else False
    if not (is_flatten or (node.op == "call_method" and node.target == "flatten")):
        return None
    given: dict[str, Any] = {"start_dim": 0, "end_dim": -1}
    given |= dict(zip(given, node.args[1:], strict=False)) | node.kwargs
    if set(given) != {"start_dim", "end_dim"} or any(type(v) is not int for v in given.values()):
        return None
    return nn.Flatten(given["start_dim"], given["end_dim"])


def _flatten_views(graph: fx.Graph, owner: nn.Module) -> None:
    """Make x.view(x.size(0), -1) of what a fused convolution gives the flatten that it equals."""
    for node in list(graph.nodes):
        if node.op != "call_method" or node.target not in ("view", "reshape"):
            continue
        if len(node.args) != 3 or node.kwargs or node.args[2] != -1:
            continue
        x: Any = node.args[0]
        size: Any = node.args[1]
        module = _module_of(x, owner)
        if not isinstance(module, nn.Conv2d) or not _is_batch_size(size, x):
            continue
        with graph.inserting_before(node):
            flat = graph.call_function(torch.flatten, (x, 1))
        node.replace_all_uses_with(flat)
        graph.erase_node(node)
        while size is not x and not size.users:
            size, unread = size.args[0], size
            graph.erase_node(unread)


def _is_batch_size(size: Any, x: fx.Node) -> bool:
    """Is it x.size(0) or x.shape[0]?"""
    if not isinstance(size, fx.Node):
        return False
    if size.op == "call_method":
        return size.target == "size" and size.args == (x, 0)
    if size.target is not operator.getitem or size.args[1] != 0:
        return False
    shape = size.args[0]
    return isinstance(shape, fx.Node) and shape.target is getattr and shape.args == (x, "shape")
