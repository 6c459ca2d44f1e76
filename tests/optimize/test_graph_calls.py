"""What may write to a value between two lines of a graph, and what only seems to."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from fastmodel.optimize import graph_calls

D = 4


class Author(nn.Module):
    """A module that is none of PyTorch's own."""

    def forward(self, x):
        return x


class AuthorsLayer(Author):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(D, D)


def authors(x):
    """A function that is none of PyTorch's own."""
    return x


fx.wrap("authors")

# lib.scale writes to what it is given and says so, lib.read does not; neither has a name that would tell.
lib = torch.library.Library("fastmodel_test_graph_calls", "DEF")
lib.define("scale(Tensor(a!) x) -> ()")
lib.define("read(Tensor x) -> Tensor")
OPS = torch.ops.fastmodel_test_graph_calls


class Traced(nn.Module):
    """value = start(x), then a line with value, x and what else is there, then the end."""

    def __init__(self, line, start):
        super().__init__()
        self.line, self.start = line, start
        self.author, self.layer = Author(), AuthorsLayer()
        self.relu, self.writing_relu = nn.ReLU(), nn.ReLU(inplace=True)
        self.up, self.drop = nn.Linear(D, D), nn.Dropout()

    def forward(self, x, y):
        value = self.start(self, x)
        read = F.silu(value)
        self.line(self, value, x, y)
        return torch.relu(read)


def is_still(line, start=lambda m, x: m.up(x)):
    module = Traced(line, start)

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module, qualified_name):
            return True

    nodes = list(Tracer().trace(module).nodes)
    read = next(node for node in nodes if node.target is F.silu)
    return graph_calls.is_still((read.args[0],), read, nodes[-2], module)


WRITES = {
    "method": lambda m, value, x, y: value.mul_(2),
    "function": lambda m, value, x, y: torch.relu_(value),
    "flag": lambda m, value, x, y: F.silu(value, inplace=True),
    "out": lambda m, value, x, y: torch.exp(y, out=value),
    "item": lambda m, value, x, y: value.__setitem__(0, y),
    "augmented": lambda m, value, x, y: value.__iadd__(y),
    "module": lambda m, value, x, y: m.writing_relu(value),
    "overload": lambda m, value, x, y: torch.ops.aten.add_.Tensor(value, y),
    "packet": lambda m, value, x, y: torch.ops.aten.add_(value, y),
    "op": lambda m, value, x, y: OPS.scale(value),
    "op-overload": lambda m, value, x, y: OPS.scale.default(value),
    "another-value": lambda m, value, x, y: y.mul_(2),  # of which it might be a view
    "author": lambda m, value, x, y: m.author(value),
    "authors-layer": lambda m, value, x, y: m.layer(value),
    "authors-function": lambda m, value, x, y: authors(value),
    "author-of-a-view": lambda m, value, x, y: m.author(value.view(-1)),
    "author-of-a-tuple": lambda m, value, x, y: authors([y, value]),
}


@pytest.mark.parametrize("line", WRITES.values(), ids=WRITES)
def test_what_may_write(line):
    assert not is_still(line)


READS = {
    "nothing": lambda m, value, x, y: None,
    "method": lambda m, value, x, y: value.mul(2),
    "function": lambda m, value, x, y: torch.softmax(value, dim=-1),
    "module": lambda m, value, x, y: m.relu(value),
    "special-method": lambda m, value, x, y: value.__add__(y),
    "item": lambda m, value, x, y: value[0],
    "op": lambda m, value, x, y: OPS.read(value),
    "op-overload": lambda m, value, x, y: OPS.read.default(value),
    "packet-with-an-out": lambda m, value, x, y: torch.ops.aten.add(value, y),
    # A layer's output is no view of its input.
    "author-beside-it": lambda m, value, x, y: m.author(x),
    "authors-function-beside-it": lambda m, value, x, y: authors(y),
    "author-of-what-is-made-of-it": lambda m, value, x, y: m.author(y + 1),
}


@pytest.mark.parametrize("line", READS.values(), ids=READS)
def test_what_reads(line):
    assert is_still(line)


VIEWS = {
    "method": lambda m, x: x.transpose(0, 1),
    "part": lambda m, x: torch.chunk(x, 2)[0],
    "module-without-parameters": lambda m, x: m.drop(x),
    "author": lambda m, x: m.author(x),
    "itself": lambda m, x: x,
}


@pytest.mark.parametrize("start", VIEWS.values(), ids=VIEWS)
def test_an_author_may_write_to_what_it_is_a_view_of(start):
    assert not is_still(lambda m, value, x, y: m.author(x), start)
    assert is_still(lambda m, value, x, y: m.author(y), start)


MADE = {
    "sum": lambda m, x: x + x,
    "product": lambda m, x: x.mul(2),
    "authors-layer": lambda m, x: m.layer(x),
}


@pytest.mark.parametrize("start", MADE.values(), ids=MADE)
def test_what_is_made_anew_is_no_view(start):
    assert is_still(lambda m, value, x, y: m.author(x), start)
