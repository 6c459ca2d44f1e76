"""Where values meet, a module is called as a whole: every output and gradient, of any arguments, is held."""

from __future__ import annotations

import copy

import pytest
import torch
from support.by_rule import by_rule
from torch import nn
from torch.utils import _pytree as pytree

import fastmodel as fm
from fastmodel.optimize import joins
from fastmodel.optimize.calls import Call, caught, pass_of
from fastmodel.optimize.trial import Examples

D = 8


class Store:
    """What a module is given to fill, as a cache of keys and values is."""

    def __init__(self):
        self.seen = []


class Inner(nn.Module):
    """A gated unit of two arguments, one of them by name and in a tuple, and one that it fills."""

    def __init__(self):
        super().__init__()
        self.gate, self.up = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x, scale, pair=None, store=None, **options):
        store.seen.append(x)
        x.mul_(0.5)  # as what writes to its input
        gated = nn.functional.silu(self.gate(x)) * self.up(pair[0])
        return gated * scale, {"sum": gated + pair[1]}


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.inner = nn.Linear(D, D), nn.Linear(D, D), Inner()
        self.register_buffer("table", torch.rand(D))

    def forward(self, x):
        store = Store()
        pair = (self.second(x), self.table)
        out, more = self.inner(self.first(x), 2, pair=pair, store=store)
        assert len(store.seen) == 1
        return out + more["sum"]


@pytest.fixture
def x():
    return torch.randn(3, D)


def the_row(model):
    plan = fm.plan_of(model)
    (row,) = [p for p in (*plan.swaps, *plan.left) if p.pattern == "SiLU * value"]
    return row


NAMES = {
    "output 0",
    "output 1",
    "gradient of input 0",
    "gradient of input 1",
    *(f"gradient of {layer}.{name}" for layer in ("gate", "up") for name in ("weight", "bias")),
}


def test_a_rule_holds_every_gradient(x):
    row = the_row(by_rule(Outer(), x))
    assert row.replacement == "swiglu" and row.verification is not None
    assert {check.tensor for check in row.verification.checks} == NAMES
    assert row.verification.passed
    for check in row.verification.checks:
        assert 4 * check.torch_error < check.bound <= 4 * check.torch_error + 16 * 2.0**-23


def test_so_does_the_measured_selection(x, races):
    row = the_row(fm.optimize(Outer(), x))
    assert row.replacement == "swiglu" and row.measurement is not None, row.reason
    assert row.verification is not None
    assert {check.tensor for check in row.verification.checks} == NAMES


class Faulty(torch.autograd.Function):
    """SiLU(a) * b with gradients of its own."""

    factors = (1.0, 1.0)

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return nn.functional.silu(a) * b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        s = a.sigmoid()
        of_a, of_b = grad * b * s * (1 + a * (1 - s)), grad * a * s
        return of_a * Faulty.factors[0], of_b * Faulty.factors[1]


def swiglu(a, b):
    return Faulty.apply(a, b)


@pytest.mark.parametrize("how", ["static", "measured"])
@pytest.mark.parametrize(
    ("factors", "tensor"),
    [((1.0, 1.0), None), ((-1.0, 1.0), "gate"), ((1.0, 1.001), "up"), ((0.0, 1.0), "gate")],
    ids=["right", "sign", "a-thousandth", "none"],
)
def test_a_wrong_gradient_of_one_argument_is_found(factors, tensor, how, x, races, monkeypatch):
    monkeypatch.setitem(joins.GATES, "SiLU", swiglu)
    monkeypatch.setattr(Faulty, "factors", factors)
    row = the_row(fm.optimize(Outer(), x, select=how))
    assert row.verification is not None and row.verification.passed == (tensor is None)
    if tensor is not None:
        assert row.replacement is None and "failed its float64 check: gradient of" in row.reason
        wrong = {check.tensor for check in row.verification.checks if not check.passed}
        assert any(tensor in name for name in wrong) and "output 0" not in wrong


class SinglesOut(Inner):
    """Raises in float64."""

    def forward(self, x, scale, pair=None, store=None, **options):
        if x.dtype == torch.float64:
            raise TypeError("not in float64")
        store.seen.append(x)
        return nn.functional.silu(self.gate(x)) * self.up(pair[0]), {"sum": pair[1]}


def test_what_cannot_be_held_is_left(x):
    model = Outer()
    model.inner = SinglesOut()
    row = the_row(by_rule(model, x))
    assert row.replacement is None
    assert "not held against float64: it raises TypeError: not in float64" in row.reason


class OtherArguments(Outer):
    """Gives its part one argument more where gradients are on."""

    def forward(self, x):
        more = {"extra": x} if torch.is_grad_enabled() else {}
        pair = (self.second(x), self.table)
        return self.inner(self.first(x), 2, pair=pair, store=Store(), **more)[0]


@pytest.mark.parametrize("how", ["static", "measured"])
def test_a_call_that_cannot_be_caught_is_left(how, x, races):
    row = the_row(fm.optimize(OtherArguments(), x, select=how))
    assert row.replacement is None and "called otherwise" in row.reason


def test_a_call_is_made_again_as_it_was(x):
    model = Outer()
    call = caught(model, Examples((x,), {}), {"inner"})["inner"]
    tensors = [v for v in call.values if isinstance(v, torch.Tensor)]
    assert [v.requires_grad for v in tensors] == [False] * 3
    first, inner = tensors[0].clone(), copy.deepcopy(model.inner).double()
    for _ in range(2):
        values, inputs = call.fresh(torch.float64)
        assert [v.dtype for v in inputs] == [torch.float64] * 2
        outs = call.of(inner, values)
        assert len(outs) == 2 and torch.equal(inputs[0], first.double())
    (store,) = (v for v in call.values if isinstance(v, Store))
    assert store.seen == [] and torch.equal(tensors[0], first)
    with torch.no_grad():
        torch.testing.assert_close(tensors[0], model.first(x))


def test_what_is_timed_leaves_no_trace(x):
    model = Outer()
    call = caught(model, Examples((x,), {}), {"inner"})["inner"]
    before = [v.clone() for v in call.values if isinstance(v, torch.Tensor)]
    calls, gradients = [], []
    model.inner.register_forward_hook(lambda *_: calls.append(1))
    model.inner.gate.weight.register_hook(gradients.append)
    run = pass_of(model.inner, call)
    run(), run()
    assert len(calls) == 2 and len(gradients) == 2 and gradients[0].abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    after = [v for v in call.values if isinstance(v, torch.Tensor)]
    assert all(map(torch.equal, after, before))
    (store,) = (v for v in call.values if isinstance(v, Store))
    assert store.seen == []


def test_the_key_tells_calls_that_take_equally_long():
    def key(*values, requires=None):
        leaves, spec = pytree.tree_flatten((values, {}))
        flags = tuple(isinstance(v, torch.Tensor) for v in leaves)
        return Call(tuple(leaves), spec, requires or flags).key

    first = key(torch.ones(4, D), 2, Store())
    assert first == key(torch.zeros(4, D), 2, Store())
    others = [
        key(torch.ones(2, D), 2, Store()),
        key(torch.ones(D, 4).t(), 2, Store()),
        key(torch.ones(4, D).double(), 2, Store()),
        key(torch.ones(4, D), 3, Store()),
        key(torch.ones(4, D), 2, None),
        key(torch.ones(4, D), 2, Store(), requires=(False,) * 3),
    ]
    assert len({first, *others}) == 1 + len(others)


class Twice(Outer):
    """Calls its part twice, the first time with what it has filled before."""

    def forward(self, x):
        for scale in (2, 3):
            store = Store()
            store.seen = [self.second(x)]
            x = self.inner(self.first(x), scale, pair=(x, self.table), store=store)[0]
        return x


def test_the_first_call_is_caught_with_what_was_filled_before(x):
    model = Twice()
    call = caught(model, Examples((x,), {}), {"inner"})["inner"]
    assert [value for value in call.values if isinstance(value, int)] == [2]
    (store,) = (v for v in call.values if isinstance(v, Store))
    torch.testing.assert_close(store.seen, [model.second(x).detach()])
    assert not store.seen[0].requires_grad
    row = the_row(by_rule(model, x))
    assert row.replacement == "swiglu" and row.verification.passed


def test_what_is_frozen_is_timed_without(x):
    model = Outer()
    model.inner.gate.weight.requires_grad_(False)
    call = caught(model, Examples((x,), {}), {"inner"})["inner"]
    gradients = []
    model.inner.up.weight.register_hook(gradients.append)
    pass_of(model.inner, call)()
    assert len(gradients) == 1
    row = the_row(by_rule(model, x))
    names = {check.tensor for check in row.verification.checks}
    assert names == NAMES - {"gradient of gate.weight"}


class Drops(Inner):
    """With a dropout, whose mask is another in each call; it counts them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x, scale, pair=None, store=None):
        self.count += 1
        gated = nn.functional.silu(self.gate(x)) * self.up(pair[0])
        return nn.functional.dropout(gated, 0.5, self.training), {"sum": gated}


class Around(Outer):
    def forward(self, x):
        out, more = self.inner(self.first(x), 2, pair=(self.second(x),), store=Store())
        return out + more["sum"]


@pytest.mark.parametrize("how", ["static", "measured"])
def test_a_dropout_is_left_out_and_buffers_stay(how, x, races):
    model = Around()
    model.inner = Drops()
    model.train()
    row = the_row(fm.optimize(model, x, select=how))
    assert row.replacement == "swiglu" and row.verification.passed, row.reason
    assert model.inner.count == 0
