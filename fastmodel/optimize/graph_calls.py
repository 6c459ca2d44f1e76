"""What the nodes of FX's and Dynamo's graphs compute, as joins.py asks for it, and where they write in place.

Operators on tensors are methods in Dynamo's graphs where a mode looks at each call, as the checks' does.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import fx, nn

ADD = (operator.add, torch.add, "add")
MUL = (operator.mul, torch.mul, "mul")
CAT = (torch.cat, torch.concat)
NEGATIVE = (operator.neg, torch.neg, "neg")
GETITEM = (operator.getitem,)
CHUNK = (torch.chunk, "chunk")
MEAN = (torch.mean, "mean")
POW = (torch.pow, operator.pow, "pow")
RSQRT = (torch.rsqrt, "rsqrt")
SQUARE = (torch.square, "square")
UNSQUEEZE = (torch.unsqueeze, "unsqueeze")
_KNOWN_ORIGINS = ("", "torch", "fastmodel", "_operator", "builtins", "math")
_CAST = ("to", "float", "type_as")
AUGMENTED = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor")
"""The operators that have an assignment of their own: x += y."""
_WRITING = ("setitem", "setattr", *(f"i{name}" for name in AUGMENTED))
_PURE = (
    *(*ADD, *MUL, *CAT, *NEGATIVE, *GETITEM, *CHUNK, *MEAN, *POW, *RSQRT, *SQUARE, *UNSQUEEZE),
    *("float", "size", "to", operator.floordiv, getattr),
)


def is_call(node: Any, functions: tuple) -> TypeGuard[fx.Node]:
    """Of one of these functions, or of a method by name, with arguments by position."""
    is_call = isinstance(node, fx.Node) and node.op in ("call_function", "call_method")
    return is_call and node.target in functions and len(node.args) > 0


def as_any(value: Any) -> Any:
    """FX's arguments, of whose kinds there are twenty."""
    return value


def is_sum(node: Any) -> TypeGuard[fx.Node]:
    """Of two values, and of nothing times one of them (torch.add's alpha)."""
    return is_call(node, ADD) and len(node.args) == 2 and not node.kwargs


def other(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """Of a call of two nodes the one beside `value`; None where there is none, or it is the same."""
    if len(node.args) != 2 or node.kwargs or value not in node.args:
        return None
    found = node.args[1] if node.args[0] is value else node.args[0]
    return found if isinstance(found, fx.Node) and found is not value else None


def uncast(value: Any) -> Any:
    """What a value was before .to(dtype)."""
    return value.args[0] if is_call(value, _CAST) else value


def is_pure(node: fx.Node) -> bool:
    """May an unread node go? Those that the joins leave behind."""
    return node.op == "get_attr" or is_call(node, _PURE)


def called(owner: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, in the tree or beside it."""
    found = operator.attrgetter(str(node.target))(owner)
    return found if isinstance(found, nn.Module) else None


def is_later(value: Any, node: fx.Node) -> bool:
    """Is a value, or one of those in a tuple, computed after a node?"""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    return any(one.op not in ("placeholder", "get_attr") and one > node for one in found)


def is_still(values: Sequence[fx.Node], first: fx.Node, last: fx.Node, owner: nn.Module) -> bool:
    """Does nothing between two nodes write in place to these values?

    What writes by name counts, whatever its arguments: they may be views. An author's module or function may
    write to what it is given.
    """
    between = []
    while (first := first.next) is not last:
        between.append(first)
    if any(_writes(node, owner) for node in between):
        return False
    if not any(_is_authors(node, owner) for node in between):
        return True
    kin = set(_viewed(values, owner))
    for node in between:
        if not kin.isdisjoint(node.all_input_nodes):
            if _is_authors(node, owner):
                return False
            kin.add(node)
    return True


def _viewed(values: Sequence[fx.Node], owner: nn.Module) -> Iterator[fx.Node]:
    """The values and all that they may be views of."""
    todo = list(values)
    while todo:
        node = todo.pop()
        yield node
        if not _makes_anew(node, owner):
            todo += node.all_input_nodes


def _makes_anew(node: fx.Node, owner: nn.Module) -> bool:
    """Is a value none of those that it is made of, nor a view of one? That of a layer with Parameters."""
    if node.op != "call_module":
        return is_call(node, (*ADD, *MUL, *CAT, *NEGATIVE))
    module = called(owner, node)
    return module is not None and next(module.parameters(), None) is not None


def _writes(node: fx.Node, owner: nn.Module) -> bool:
    """Does a node say that it changes a value in place?"""
    if node.op == "call_module":
        return bool(getattr(called(owner, node), "inplace", False))
    if node.op not in ("call_function", "call_method"):
        return False
    target: Any = node.target
    name = str(getattr(target, "__name__", target)).partition(".")[0]
    is_in_place = name.endswith("_") and not name.endswith("__")
    is_flagged = node.kwargs.get("inplace") or any(arg is True for arg in node.args)
    return bool(
        is_in_place
        or is_flagged
        or "out" in node.kwargs
        or (name.strip("_") if name.startswith("__") else name) in _WRITING
        or any(schema.is_mutable for schema in _schemas(target))
    )


def _schemas(target: Any) -> list[torch.FunctionSchema]:
    """Of an op of torch.ops; those alone that do not want `out`, by which name it is looked for."""
    if isinstance(target, torch._ops.OpOverload):
        return [target._schema]
    if not isinstance(target, torch._ops.OpOverloadPacket):
        return []
    names = (name for name in target.overloads() if not name.endswith("out"))
    return [getattr(target, name)._schema for name in names]


def _is_authors(node: fx.Node, owner: nn.Module) -> bool:
    """Does a node call what an author wrote, which may do anything?"""
    if node.op == "call_module":
        module = called(owner, node)
        is_known = type(module).__module__.startswith(("torch.nn.", "fastmodel."))
        return module is not None and not is_known
    if node.op != "call_function" or _schemas(node.target):
        return False
    origin = getattr(node.target, "__module__", None) or ""
    return origin.partition(".")[0] not in _KNOWN_ORIGINS
