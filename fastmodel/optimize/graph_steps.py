"""What the calls after a Conv2d or Linear in a graph do, read as the steps of a pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fastmodel.optimize import joins, patterns

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
_DROPOUT_FUNCTIONS: dict[Callable, dict[str, Any]] = {
    F.dropout: {"p": 0.5, "training": True, "inplace": False},
    torch.dropout: {"p": None, "train": None},
}
"""What they are called with after the input, and the defaults."""


@dataclass(frozen=True)
class Chain:
    """A call of a Conv2d or Linear in a graph, and the nodes after it as far as each has one reader."""

    anchor: fx.Node
    nodes: tuple[fx.Node, ...]
    steps: tuple[patterns.Step, ...]


def chain_of(owner: nn.Module, anchor: fx.Node, mode: bool | None = None) -> Chain:
    """What follows a call, as far as each value has one reader.

    Args:
        owner: whose forward the graph is.
        anchor: the call.
        mode: in which the graph was traced; None for one whose dropouts are not to be taken in.
    """
    nodes: list[fx.Node] = []
    steps: list[patterns.Step] = []
    value = anchor
    while len(steps) < 3:
        readers = list(value.users)
        if len(readers) != 1:
            label = f"{len(readers)} readers" if readers else "no reader"
            steps.append(patterns.Step("fork", label))
            break
        step = _step(owner, readers[0], value, mode)
        if step.kind == "activation" and step.label in joins.GATES and _is_gate(readers[0]):
            step = patterns.Step("other", f"{step.label} * value")
        nodes.append(readers[0])
        steps.append(step)
        value = readers[0]
        if step.kind == "other" and value.op == "output":
            break
    return Chain(anchor, tuple(nodes), tuple(steps))


def _is_gate(activation: fx.Node) -> bool:
    """Is an activation's value read by one product alone: that of a gated unit?"""
    readers = list(activation.users)
    return len(readers) == 1 and joins.is_gate(readers[0], activation)


def _step(
    owner: nn.Module, node: fx.Node, value: fx.Node, mode: bool | None = None
) -> patterns.Step:
    """What a node does with the value that it reads."""
    if node.op == "call_module":
        module = owner.get_submodule(str(node.target))
        step = patterns.step_of_module(module)
        if node.args != (value,) or node.kwargs:
            return patterns.Step("other", step.label)
        if step.dropout is None:
            return step
        # One whose mode is not its owner's (Monte Carlo dropout) is left to itself.
        if mode is None or step.dropout.training != owner.training:
            return patterns.Step("other", step.label)
        return patterns.dropout_step(step.dropout.p, step.dropout.inplace, mode, step.refusal)
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
    if node.target in _DROPOUT_FUNCTIONS and mode is not None:
        return _dropout_step(node)
    return patterns.Step("other", getattr(node.target, "__name__", str(node.target)))


def _dropout_step(node: fx.Node) -> patterns.Step:
    """A functional dropout, read as the nn.Dropout that it equals."""
    defaults = _DROPOUT_FUNCTIONS[node.target]  # type: ignore[index]
    given = {**defaults, **dict(zip(defaults, node.args[1:], strict=False)), **node.kwargs}
    p, training = given["p"], given.get("training", given.get("train"))
    if type(p) not in (float, int) or type(training) is not bool:
        return patterns.Step("other", "dropout")
    return patterns.dropout_step(p, bool(given.get("inplace")), training)


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
