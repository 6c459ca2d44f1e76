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
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

import fastmodel.functional as fused_functions
import fastmodel.nn as fused_nn
from fastmodel.optimize import as_written, patterns
from fastmodel.optimize.graph_calls import (
    CAT,
    CHUNK,
    GETITEM,
    MEAN,
    MUL,
    NEGATIVE,
    POW,
    RSQRT,
    SQUARE,
    UNSQUEEZE,
    as_any,
    called,
    is_call,
    is_later,
    is_pure,
    is_still,
    is_sum,
    other,
    uncast,
)

_LAYER_NORM = (F.layer_norm, torch.layer_norm, fused_functions.layer_norm)
_RMS_NORM = (F.rms_norm, torch.rms_norm, fused_functions.rms_norm)
GATES: dict[str, Callable] = {
    "SiLU": as_written.swiglu,
    "GELU": as_written.geglu,
    "GELU (tanh)": as_written.geglu_tanh,
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
    turned = [half for node in graph.nodes if (half := _turned(node)) is not None]
    found = list(_pairs(turned, owner))
    taken = {node for join in found for node in join.nodes}
    for node in graph.nodes:
        join = _gated(node, owner) or _added(node, owner) or _rms_norm(node, owner)
        if join is not None and taken.isdisjoint(join.nodes):
            found.append(join)
            taken.update(join.nodes)
    return sorted(found, key=lambda join: join.nodes[-1])


def rewrite(
    graph: fx.Graph, found: Iterable[Join], keep: Callable[[nn.Module], str] | None = None
) -> None:
    """Put these ops into their graph; `keep` as a Join takes it, None for a graph that calls no modules."""
    for join in found:
        join.rewrite(keep or _no_module)
    for node in reversed(list(graph.nodes)):
        if not node.users and is_pure(node):
            graph.erase_node(node)


def _no_module(module: nn.Module) -> str:
    raise AssertionError(f"a graph without modules is to call {type(module).__name__}")


def is_gate(node: fx.Node, value: fx.Node) -> bool:
    """Does a node multiply the value, an activation's, by another one: a gated unit?"""
    return is_call(node, MUL) and other(node, value) is not None


def _gated(node: fx.Node, owner: nn.Module) -> Join | None:
    if not is_call(node, MUL):
        return None
    for value in node.all_input_nodes:
        name, x = _activation(value, owner)
        if other(node, value) is None or name is None or x is None or len(value.users) != 1:
            continue
        if not is_still((x,), value, node, owner):
            continue

        def put(keep: Callable, value=value, function=GATES[name]) -> None:
            # Looked up now: another op may have been put in the place of what is read here.
            with node.graph.inserting_before(node):
                arguments = (value.args[0], other(node, value))
                made = node.graph.call_function(function, arguments)
            node.replace_all_uses_with(made)
            _erase(node, value)

        return Join(GATES[name].__name__, f"{name} * value", (value, node), put)
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
    module = called(owner, node)
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
    if not is_sum(total) or not all(isinstance(value, fx.Node) for value in total.args):
        return None
    if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
        norm = called(owner, node)
        fused = None if norm is None else _ADDED.get(type(norm))
        if norm is None or fused is None or patterns.has_hooks(norm):
            return None
        op = "add_layer_norm" if fused is fused_nn.AddLayerNorm else "add_rms_norm"

        def made(keep: Callable, pair: tuple[fx.Node, ...]) -> fx.Node:
            twin = fused.from_torch(norm)
            # One dict for both: what is put in the place of a Parameter reaches the fused module too.
            twin.__dict__["_parameters"] = norm._parameters
            return node.graph.call_module(keep(twin), pair)

        return _join_of_norm(op, node, total, owner, made)
    is_layer_norm = is_call(node, _LAYER_NORM)
    if not (is_layer_norm or is_call(node, _RMS_NORM)) or node.kwargs or len(node.args) < 2:
        return None
    rest = node.args[1:]
    if len(rest) > (4 if is_layer_norm else 3) or is_later(rest, total):
        return None
    op = "add_layer_norm" if is_layer_norm else "add_rms_norm"
    function = getattr(fused_functions, op)
    return _join_of_norm(
        op,
        node,
        total,
        owner,
        lambda keep, pair: node.graph.call_function(function, (*pair, *node.args[1:])),
    )


def _join_of_norm(
    op: str, node: fx.Node, total: fx.Node, owner: nn.Module, made: Callable
) -> Join | None:
    if not is_still((total,), total, node, owner):
        return None

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

    @property
    def first(self) -> fx.Node:
        """The first line that reads x, for this or for anything else."""
        return min(self.x.users)


def _turned(node: fx.Node) -> _Turned | None:
    """Half of a rotary embedding, of which this is the sum."""
    if not is_sum(node):
        return None
    left, right = node.args
    if not (is_call(left, MUL) and is_call(right, MUL)):
        return None
    if len(left.users) != 1 or len(right.users) != 1:
        return None
    for plain, half in ((left, right), (right, left)):
        for rotated in half.all_input_nodes:
            x, sin = _rotated(rotated), other(half, rotated)
            cos = None if x is None else other(plain, x)
            if x is not None and cos is not None and sin is not None:
                return _Turned(x, (cos, sin), (left, right, rotated, node))
    return None


def _rotated(node: fx.Node) -> fx.Node | None:
    """x of rotate_half(x): the negative of its second half, then the first."""
    if not is_call(node, CAT) or not isinstance(node.args[0], (tuple, list)):
        return None
    parts: Any = node.args[0]
    dim = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dim != -1 or len(parts) != 2 or not is_call(parts[0], NEGATIVE):
        return None
    second, first = parts[0].args[0], parts[1]
    if not (is_call(first, GETITEM) and is_call(second, GETITEM)):
        return None
    whole, index = as_any(first.args)
    as_whole, last = as_any(second.args)
    if whole is not as_whole or not isinstance(whole, fx.Node):
        return None
    if (index, last) == (0, 1):
        return _chunked(whole)
    if not (_is_slice_of_last(index) and _is_slice_of_last(last)):
        return None
    is_sliced = (
        (index[1].start, last[1].stop) == (None, None)
        and _is_half(index[1].stop, whole)
        and _is_half(last[1].start, whole)
    )
    return whole if is_sliced else None


def _is_slice_of_last(index: Any) -> bool:
    """[..., a:b]"""
    is_last = isinstance(index, tuple) and len(index) == 2 and index[0] is Ellipsis
    return is_last and isinstance(index[1], slice) and index[1].step is None


def _chunked(node: fx.Node) -> fx.Node | None:
    """x of x.chunk(2, -1)."""
    if not is_call(node, CHUNK):
        return None
    x, *rest = node.args
    given = {"chunks": None, "dim": 0} | dict(zip(("chunks", "dim"), rest, strict=False))
    is_halved = given | node.kwargs == {"chunks": 2, "dim": -1}
    return x if is_halved and isinstance(x, fx.Node) else None


def _is_half(value: Any, x: fx.Node) -> bool:
    """Is it half of x's last size? Of a number a graph may not say; then the numbers of the whole will."""
    if isinstance(value, fx.Node):
        is_halved = is_call(value, (operator.floordiv,)) and value.args[1:] == (2,)
        return is_halved and _is_last_size(value.args[0], x)
    known = x.meta.get("example_value")
    return isinstance(value, int) and (known is None or 2 * value == known.shape[-1])


def _is_last_size(size: Any, x: fx.Node) -> bool:
    """Is it x.shape[-1] or x.size(-1)?"""
    if is_call(size, ("size",)):
        return size.args == (x, -1)
    if not is_call(size, GETITEM) or size.args[1:] != (-1,):
        return False
    shape = size.args[0]
    return is_call(shape, (getattr,)) and shape.args == (x, "shape")


def _pairs(turned: Sequence[_Turned], owner: nn.Module) -> Iterator[Join]:
    """Two values that are turned by the same tables, q and k."""
    for q, k in zip(turned[::2], turned[1::2], strict=False):
        if q.tables != k.tables or any(user < k.out for user in q.out.users):
            continue
        if not is_still((q.x, k.x, *q.tables), q.first, k.out, owner):
            continue

        def put(keep: Callable, outs=(q.out, k.out)) -> None:
            # Read again: another op may have been put in the place of what is turned here.
            q, k = map(_turned, outs)
            assert q is not None and k is not None  # what they were is what they are
            graph = k.out.graph
            with graph.inserting_before(k.out):
                arguments = (q.x, k.x, *map(_table, q.tables))
                both = graph.call_function(as_written.rope, arguments)
                made = [graph.call_function(operator.getitem, (both, i)) for i in (0, 1)]
            for old, new in zip(outs, made, strict=True):
                old.replace_all_uses_with(new)
                _erase(old)

        yield Join("rope", "rotary embedding", (*q.nodes, *k.nodes), put)


def _table(node: fx.Node) -> fx.Node:
    """The table before a dimension for the heads was put in."""
    is_unsqueezed = is_call(node, UNSQUEEZE) and node.args[1:] == (1,)
    x = node.args[0] if is_unsqueezed and not node.kwargs else node
    return x if isinstance(x, fx.Node) else node


@dataclass(frozen=True)
class _Written:
    """weight * (x * rsqrt(mean(x^2) + eps))."""

    x: fx.Node
    weight: fx.Node
    eps: float
    first: fx.Node
    """The first line that reads x."""


def _rms_norm(node: fx.Node, owner: nn.Module) -> Join | None:
    """RMS norm written out, in float32 where the author casts, the owner's own weight."""
    written = _written(node)
    if written is None:
        return None
    weight = getattr(owner, str(written.weight.target), None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 1:
        return None
    if not is_still((written.x,), written.first, node, owner):
        return None

    def put(keep: Callable, shape=tuple(weight.shape)) -> None:
        again = _written(node)
        assert again is not None  # what it was is what it is
        with node.graph.inserting_before(node):
            arguments = (again.x, shape, again.weight, again.eps)
            made = node.graph.call_function(as_written.rms_norm, arguments)
        node.replace_all_uses_with(made)
        _erase(node)

    return Join("rms_norm", "RMSNorm, written out", (node,), put)


def _written(node: fx.Node) -> _Written | None:
    if not is_call(node, MUL) or len(node.args) != 2 or node.kwargs:
        return None
    weight, cast = as_any(node.args)
    scaled = uncast(cast)
    if not (isinstance(weight, fx.Node) and weight.op == "get_attr" and is_call(scaled, MUL)):
        return None
    for root in scaled.all_input_nodes:
        x = other(scaled, root)
        found = None if x is None else _eps_of(root, x)
        if x is None or found is None:
            continue
        eps, square = found
        if cast is scaled:
            return _Written(x, weight, eps, square)
        # Cast back to the dtype that x had before; the norm does as much.
        source = uncast(x)
        to = (*cast.args[1:], *cast.kwargs.values())
        is_back = cast.target != "float" and to in ((source,), (_dtype_of(source),))
        return _Written(source, weight, eps, square if source is x else x) if is_back else None
    return None


def _dtype_of(x: fx.Node) -> fx.Node | None:
    """The node x.dtype."""
    found = (user for user in x.users if user.target is getattr and user.args == (x, "dtype"))
    return next(found, None)


def _eps_of(root: fx.Node, x: fx.Node) -> tuple[float, fx.Node] | None:
    """eps of rsqrt(mean(x^2, last, keepdim) + eps), and the square."""
    if not is_call(root, RSQRT):
        return None
    total = root.args[0]
    if not is_sum(total) or not isinstance(total.args[1], float):
        return None
    mean, eps = as_any(total.args)
    if not is_call(mean, MEAN):
        return None
    dim = mean.args[1] if len(mean.args) > 1 else mean.kwargs.get("dim")
    square = as_any(mean.args[0])
    if dim not in (-1, (-1,), [-1]) or mean.kwargs.get("keepdim") is not True:
        return None
    is_square = is_call(square, SQUARE) or (is_call(square, POW) and square.args[1:] == (2,))
    return (float(eps), square) if is_square and square.args[0] is x else None


def _erase(*nodes: fx.Node) -> None:
    """Take out nodes that nobody reads."""
    for node in nodes:
        if not node.users:
            node.graph.erase_node(node)
