"""Places where two values meet in a graph, each done by one op of ours.

    add + norm        s = a + b, norm(s)                     add_layer_norm, add_rms_norm: both in one pass
    gated unit        silu(a) * b, gelu(a) * b               swiglu, geglu, geglu_tanh
    rotary embedding  q * cos + rotate_half(q) * sin, and k  rope, both in one call
    RMS norm          w * (x * rsqrt(mean x^2 + eps))        rms_norm, where it is written out

They are read in FX's graphs, where norms and activations are modules, and in Dynamo's, where all are
functions. The op stands where the last part stood; that of a norm where the sum did, so nothing that writes
in place may lie in between.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import fx, nn

import fastmodel.functional as fused_functions
import fastmodel.nn as fused_nn
from fastmodel.optimize import patterns

# Operators on tensors are methods in Dynamo's graphs where a mode looks at each call, as the checks' does.
_ADD = (operator.add, torch.add, "add")
_MUL = (operator.mul, torch.mul, "mul")
_CAT = (torch.cat, torch.concat)
_NEGATIVE = (operator.neg, torch.neg, "neg")
_AUGMENTED = tuple(
    getattr(operator, f"i{name}")
    for name in (
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "matmul",
        "and",
        "or",
        "xor",
    )
)
_LAYER_NORM = (F.layer_norm, torch.layer_norm, fused_functions.layer_norm)
_RMS_NORM = (F.rms_norm, torch.rms_norm, fused_functions.rms_norm)
_METHODS = ("chunk", "float", "mean", "pow", "rsqrt", "size", "square", "to", "unsqueeze")
GATES: dict[str, Callable] = {
    "SiLU": fused_functions.swiglu,
    "GELU": fused_functions.geglu,
    "GELU (tanh)": fused_functions.geglu_tanh,
}
_ADDED: dict[type[nn.Module], Any] = {
    nn.LayerNorm: fused_nn.AddLayerNorm,
    fused_nn.LayerNorm: fused_nn.AddLayerNorm,
    nn.RMSNorm: fused_nn.AddRMSNorm,
    fused_nn.RMSNorm: fused_nn.AddRMSNorm,
}


@dataclass(frozen=True)
class Join:
    """One place in one graph."""

    op: str
    """In the kernel table."""
    pattern: str
    nodes: tuple[fx.Node, ...]
    """What it takes in."""
    rewrite: Callable[[Callable[[nn.Module], str]], None]
    """Put the op into the graph; takes what keeps a module beside the owner's tree and returns its name."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the modules that are absorbed where the graph calls modules, below the owner."""
        return tuple(str(node.target) for node in self.nodes if node.op == "call_module")


def find(graph: fx.Graph, owner: nn.Module) -> list[Join]:
    """The places in a graph of the owner's forward, in its order; no node is in two."""
    found: list[Join] = []
    turned: list[_Turned] = []
    for node in graph.nodes:
        join = _gated(node, owner) or _added(node, owner) or _rms_norm(node, owner)
        if join is not None:
            found.append(join)
        half = _turned(node)
        if half is not None:
            turned.append(half)
    found += _pairs(graph, turned)
    return found


def rewrite(
    graph: fx.Graph, found: Iterable[Join], keep: Callable[[nn.Module], str] | None = None
) -> None:
    """Put these ops into their graph; `keep` as a Join takes it, None for a graph that calls no modules."""
    for join in found:
        join.rewrite(keep or _no_module)
    for node in reversed(list(graph.nodes)):
        if not node.users and _is_pure(node):
            graph.erase_node(node)


def _no_module(module: nn.Module) -> str:
    raise AssertionError(f"a graph without modules is to call {type(module).__name__}")


def is_gate(node: fx.Node, value: fx.Node) -> bool:
    """Does a node multiply the value, an activation's, by another one: a gated unit?"""
    return _is_call(node, _MUL) and _other(node, value) is not None


def _gated(node: fx.Node, owner: nn.Module) -> Join | None:
    if not _is_call(node, _MUL):
        return None
    for value in node.all_input_nodes:
        other = _other(node, value)
        name, x = _activation(value, owner)
        if other is None or name is None or x is None or len(value.users) != 1:
            continue
        function = GATES[name]

        def put(keep: Callable, value=value, x=x, other=other, function=function) -> None:
            with node.graph.inserting_before(node):
                made = node.graph.call_function(function, (x, other))
            node.replace_all_uses_with(made)
            _erase(node, value)

        return Join(function.__name__, f"{name} * value", (value, node), put)
    return None


def _activation(node: fx.Node, owner: nn.Module) -> tuple[str | None, fx.Node | None]:
    """Which gate an activation is, and what it is applied to."""
    x = node.args[0] if len(node.args) == 1 else None
    if not isinstance(x, fx.Node):
        return None, None
    if node.op == "call_function" and node.target in (F.silu, F.gelu):
        if node.target is F.silu:
            return (None if node.kwargs.get("inplace") else "SiLU"), x
        name = {"none": "GELU", "tanh": "GELU (tanh)"}
        return name.get(str(node.kwargs.get("approximate", "none"))), x
    if node.op != "call_module" or node.kwargs:
        return None, None
    module = _called(owner, node)
    if module is None:
        return None, None
    step = patterns.step_of_module(module)
    if type(module) is nn.GELU and module.approximate == "tanh" and not patterns.has_hooks(module):
        return "GELU (tanh)", x
    is_gate = step.kind == "activation" and step.label in GATES and step.refusal is None
    return (step.label if is_gate and not getattr(module, "inplace", False) else None), x


def _added(node: fx.Node, owner: nn.Module) -> Join | None:
    """A norm of a sum of two values."""
    total = node.args[0] if node.args else None
    if not (_is_sum(total) and _is_still(total, node, owner)):
        return None
    a, b = total.args
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node)):
        return None
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        norm = _called(owner, node)
        fused = None if norm is None else _ADDED.get(type(norm))
        if norm is None or fused is None or patterns.has_hooks(norm):
            return None
        op = "add_layer_norm" if fused is fused_nn.AddLayerNorm else "add_rms_norm"

        def made(keep: Callable, pair: tuple[fx.Node, ...]) -> fx.Node:
            twin = fused.from_torch(norm)
            # One dict for both: what is put in the place of a Parameter reaches the fused module too.
            twin.__dict__["_parameters"] = norm._parameters
            return node.graph.call_module(keep(twin), pair)

        return _join_of_norm(op, node, total, made)
    is_layer_norm = _is_call(node, _LAYER_NORM)
    if not (is_layer_norm or _is_call(node, _RMS_NORM)) or node.kwargs or len(node.args) < 2:
        return None
    rest = node.args[1:]
    if len(rest) > (4 if is_layer_norm else 3) or any(_is_later(arg, total) for arg in rest):
        return None
    op = "add_layer_norm" if is_layer_norm else "add_rms_norm"
    function = getattr(fused_functions, op)
    return _join_of_norm(
        op,
        node,
        total,
        lambda keep, pair: node.graph.call_function(function, (*pair, *rest)),
    )


def _join_of_norm(op: str, node: fx.Node, total: fx.Node, made: Callable) -> Join:
    def put(keep: Callable) -> None:
        graph = node.graph
        with graph.inserting_before(total):
            # A sum stretches a value that lacks samples (embeddings of positions); the op wants both whole.
            stretched = graph.call_function(torch.broadcast_tensors, total.args)
            pair = tuple(graph.call_function(operator.getitem, (stretched, i)) for i in (0, 1))
            both = made(keep, pair)
            normed = graph.call_function(operator.getitem, (both, 0))
            added = graph.call_function(operator.getitem, (both, 1))
        node.replace_all_uses_with(normed)
        _erase(node)
        total.replace_all_uses_with(added)
        _erase(total)

    name = "LayerNorm" if op == "add_layer_norm" else "RMSNorm"
    return Join(op, f"add + {name}", (total, node), put)


def _is_still(total: fx.Node, norm: fx.Node, owner: nn.Module) -> bool:
    """Does nothing write in place between a sum and its norm?"""
    between = total.next
    while between is not norm:
        if between.op == "root" or _may_write(between, owner):
            return False
        between = between.next
    return True


def _may_write(node: fx.Node, owner: nn.Module) -> bool:
    """May a node change a value that it is given? Of an author's module that is not known."""
    if node.op == "call_module":
        module = _called(owner, node)
        is_known = type(module).__module__.startswith(("torch.nn.", "fastmodel."))
        return module is not None and (not is_known or bool(getattr(module, "inplace", False)))
    name = str(getattr(node.target, "__name__", node.target))
    is_in_place = name.endswith("_") and not name.endswith("__")
    is_flagged = node.kwargs.get("inplace") or any(arg is True for arg in node.args)
    return bool(
        is_in_place
        or is_flagged
        or "out" in node.kwargs
        or name in ("setitem", "setattr")
        or node.target in _AUGMENTED
    )


def _is_later(value: Any, node: fx.Node) -> bool:
    """Is a value computed after a node?"""
    return (
        isinstance(value, fx.Node) and value.op not in ("placeholder", "get_attr") and value > node
    )


@dataclass(frozen=True)
class _Turned:
    """x * cos + rotate_half(x) * sin."""

    x: fx.Node
    tables: tuple[fx.Node, fx.Node]
    """cos, sin"""
    nodes: tuple[fx.Node, ...]
    """The products, what is rotated, and last the sum."""

    @property
    def out(self) -> fx.Node:
        return self.nodes[-1]


def _turned(node: fx.Node) -> _Turned | None:
    """Half of a rotary embedding, of which this is the sum."""
    if not _is_sum(node):
        return None
    left, right = node.args
    if not (_is_call(left, _MUL) and _is_call(right, _MUL)):
        return None
    if len(left.users) != 1 or len(right.users) != 1:
        return None
    for plain, half in ((left, right), (right, left)):
        for rotated in half.all_input_nodes:
            x, sin = _rotated(rotated), _other(half, rotated)
            cos = None if x is None else _other(plain, x)
            if x is not None and cos is not None and sin is not None:
                return _Turned(x, (cos, sin), (left, right, rotated, node))
    return None


def _rotated(node: fx.Node) -> fx.Node | None:
    """x of rotate_half(x): the negative of its second half, then the first."""
    if not _is_call(node, _CAT) or not isinstance(node.args[0], (tuple, list)):
        return None
    parts: Any = node.args[0]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != -1 or len(parts) != 2 or not _is_call(parts[0], _NEGATIVE):
        return None
    second, first = parts[0].args[0], parts[1]
    if not (_is_call(first, (operator.getitem,)) and _is_call(second, (operator.getitem,))):
        return None
    whole, index = _as_any(first.args)
    other, last = _as_any(second.args)
    if whole is not other or not isinstance(whole, fx.Node):
        return None
    if (index, last) == (0, 1):
        return _chunked(whole)
    is_sliced = (
        isinstance(index, tuple)
        and isinstance(last, tuple)
        and (index[0], last[0]) == (Ellipsis, Ellipsis)
        and (index[1].start, last[1].stop) == (None, None)
        and _is_half(index[1].stop, whole)
        and _is_half(last[1].start, whole)
    )
    return whole if is_sliced else None


def _as_any(value: Any) -> Any:
    """FX's arguments, of whose kinds there are twenty."""
    return value


def _chunked(node: fx.Node) -> fx.Node | None:
    """x of x.chunk(2, -1)."""
    if node.target not in ("chunk", torch.chunk):
        return None
    x, *rest = node.args
    given = {"chunks": None, "dim": 0} | dict(zip(("chunks", "dim"), rest, strict=False))
    is_halved = given | node.kwargs == {"chunks": 2, "dim": -1}
    return x if is_halved and isinstance(x, fx.Node) else None


def _is_half(value: Any, x: fx.Node) -> bool:
    """Is it half of x's last size? Of a number a graph may not say; then the numbers of the whole will."""
    if isinstance(value, fx.Node):
        return (
            value.target is operator.floordiv and value.args[1:] == (2,) and _is_last_size(value, x)
        )
    known = x.meta.get("example_value")
    return isinstance(value, int) and (known is None or 2 * value == known.shape[-1])


def _is_last_size(half: fx.Node, x: fx.Node) -> bool:
    """Is a half that of x.shape[-1] or x.size(-1)?"""
    size = _as_any(half.args[0])
    if not isinstance(size, fx.Node):
        return False
    if size.target == "size":
        return size.args == (x, -1)
    shape = size.args[0]
    is_item = size.target is operator.getitem and size.args[1:] == (-1,)
    return is_item and isinstance(shape, fx.Node) and shape.args == (x, "shape")


def _pairs(graph: fx.Graph, turned: Sequence[_Turned]) -> Iterator[Join]:
    """Two values that are turned by the same tables, q and k."""
    for q, k in zip(turned[::2], turned[1::2], strict=False):
        if q.tables != k.tables or any(user < k.out for user in q.out.users):
            continue

        def put(keep: Callable, q=q, k=k) -> None:
            with graph.inserting_before(k.out):
                arguments = (q.x, k.x, *map(_table, q.tables))
                both = graph.call_function(fused_functions.rope, arguments)
                outs = [graph.call_function(operator.getitem, (both, i)) for i in (0, 1)]
            for old, new in zip((q.out, k.out), outs, strict=True):
                old.replace_all_uses_with(new)
                _erase(old)

        yield Join("rope", "rotary embedding", (*q.nodes, *k.nodes), put)


def _table(node: fx.Node) -> fx.Node:
    """The table before a dimension for the heads was put in."""
    is_unsqueezed = node.target in ("unsqueeze", torch.unsqueeze) and node.args[1:] == (1,)
    x = node.args[0] if is_unsqueezed and not node.kwargs else node
    return x if isinstance(x, fx.Node) else node


def _rms_norm(node: fx.Node, owner: nn.Module) -> Join | None:
    """weight * (x * rsqrt(mean(x^2) + eps)), in float32 where the author casts, the owner's own weight."""
    if not _is_call(node, _MUL) or len(node.args) != 2:
        return None
    weight, scaled = node.args
    if not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
        return None
    scaled = _uncast(scaled)
    if not _is_call(scaled, _MUL):
        return None
    for root in scaled.all_input_nodes:
        x = _other(scaled, root)
        eps = None if x is None else _eps_of(root, x)
        if x is None or eps is None:
            continue
        source = _uncast(x)
        found = getattr(owner, str(weight.target), None)
        if not isinstance(found, torch.Tensor) or found.dim() != 1:
            return None
        shape = tuple(found.shape)

        def put(keep: Callable, source=source, weight=weight, eps=eps, shape=shape) -> None:
            with node.graph.inserting_before(node):
                made = node.graph.call_function(
                    fused_functions.rms_norm, (source, shape, weight, eps)
                )
            node.replace_all_uses_with(made)
            _erase(node)

        return Join("rms_norm", "RMSNorm, written out", (node,), put)
    return None


def _eps_of(root: fx.Node, x: fx.Node) -> float | None:
    """eps of rsqrt(mean(x^2, last, keepdim) + eps)."""
    if not _is_call(root, (torch.rsqrt,)) and root.target != "rsqrt":
        return None
    total = root.args[0]
    if not _is_sum(total) or not isinstance(total.args[1], float):
        return None
    mean, eps = _as_any(total.args)
    if not isinstance(mean, fx.Node) or mean.target not in ("mean", torch.mean):
        return None
    dim = mean.args[1] if len(mean.args) > 1 else mean.kwargs.get("dim")
    square = mean.args[0]
    if dim not in (-1, (-1,), [-1]) or mean.kwargs.get("keepdim") is not True:
        return None
    if not isinstance(square, fx.Node) or square.args[0] is not x:
        return None
    is_square = square.target in ("pow", torch.pow, operator.pow) and square.args[1:] == (2,)
    return float(eps) if is_square or square.target in ("square", torch.square) else None


def _uncast(value: Any) -> Any:
    """What a value was before .to(dtype)."""
    is_cast = isinstance(value, fx.Node) and value.target in ("to", "float", "type_as")
    return value.args[0] if is_cast else value


def _called(owner: nn.Module, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, in the tree or beside it."""
    found = operator.attrgetter(str(node.target))(owner)
    return found if isinstance(found, nn.Module) else None


def _is_call(node: Any, functions: tuple) -> TypeGuard[fx.Node]:
    """Of one of these functions, or of a method by name."""
    is_call = isinstance(node, fx.Node) and node.op in ("call_function", "call_method")
    return is_call and node.target in functions


def _is_sum(node: Any) -> TypeGuard[fx.Node]:
    """Of two values, and of nothing times one of them (torch.add's alpha)."""
    return _is_call(node, _ADD) and len(node.args) == 2 and not node.kwargs


def _other(node: fx.Node, value: fx.Node) -> fx.Node | None:
    """Of a call of two nodes the one beside `value`; None where there is none, or it is the same."""
    if len(node.args) != 2 or node.kwargs or value not in node.args:
        return None
    other = node.args[1] if node.args[0] is value else node.args[0]
    return other if isinstance(other, fx.Node) and other is not value else None


def _is_pure(node: fx.Node) -> bool:
    """May an unread node go? Those that the joins leave behind."""
    if node.op == "call_method" and node.target in _METHODS:
        return True
    functions = (*_ADD, *_MUL, *_CAT, *_NEGATIVE, operator.getitem, operator.floordiv, getattr)
    own = (torch.rsqrt, torch.chunk, torch.mean, torch.pow, torch.unsqueeze)
    return node.op == "get_attr" or _is_call(node, (*functions, *own))


def _erase(*nodes: fx.Node) -> None:
    """Take out nodes that nobody reads."""
    for node in nodes:
        if not node.users:
            node.graph.erase_node(node)
