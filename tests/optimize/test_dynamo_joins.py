"""Places where values meet, in forwards that Dynamo reads: each in its own module's, in whatever graph."""

from __future__ import annotations

import copy
import operator
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.by_rule import by_rule, found_out
from torch import nn

import fastmodel as fm
from fastmodel.optimize import Decision

D = 8


class Block(nn.Module):
    """A residual block that FX does not trace; one of several of its class."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(D, D), nn.Linear(D, D)
        self.norm, self.middle = nn.LayerNorm(D), nn.LayerNorm(D)

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = x + self.first(self.norm(x))
        return total + self.second(self.middle(total))


class Breaks(Block):
    """With a graph break in the middle, after which Dynamo starts anew."""

    def forward(self, x):
        total = x + self.first(self.norm(x))
        if x.sum() > 1e9:
            return x
        total = self.second(total) + total
        return self.middle(total) + total


class Parallel(Block):
    """Both of its norms are of what comes in, which the block before has summed."""

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        return self.first(self.norm(x)) + self.second(self.middle(x)) + x


class GatesItsNorm(Block):
    """A gated unit of a norm of a sum."""

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = self.first(x) + x
        return F.silu(self.middle(total)) * self.norm(self.second(x)) + total


class NormsTwice(Block):
    """One norm of two sums."""

    def __init__(self):
        super().__init__()
        self.middle = None

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = self.first(x) + x
        total = self.second(self.norm(total)) + total
        return self.norm(total) + total


class OfTwoNames(Block):
    """The norm's name in the tree ends as that by which it is called."""

    def __init__(self):
        super().__init__()
        self.inner_last, self.middle = self.middle, None
        self.last = self.inner_last

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = self.last(self.first(x) + x)
        if x.sum() > 1e9:
            return x
        return self.last(self.second(total) + total) + self.norm(x)


class Attends(nn.Module):
    """A rotary embedding of q and k, and a gated unit, in a forward that FX does not trace."""

    def __init__(self, half=D // 2):
        super().__init__()
        self.query, self.key, self.gate = nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, D)
        self.act, self.cut = nn.SiLU(), half
        angles = torch.arange(99)[:, None] * torch.rand(D // 2, generator=_seeded())
        for name, table in (("cos", angles.cos()), ("sin", angles.sin())):
            self.register_buffer(name, table.repeat(1, 2)[None])

    def turn(self, x, cos, sin):
        first, second = x[..., : self.cut], x[..., self.cut :]
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        cos, sin = (t[:, : x.shape[1]].unsqueeze(1) for t in (self.cos, self.sin))
        q, k = (layer(x)[:, None] for layer in (self.query, self.key))
        q, k = self.turn(q, cos, sin), self.turn(k, cos, sin)
        return F.scaled_dot_product_attention(q, k, k)[:, 0] * self.act(self.gate(x))


class Stack(nn.Module):
    """Calls blocks, in a forward that FX does not trace either."""

    def __init__(self, kind, count=3):
        super().__init__()
        self.blocks = nn.ModuleList(kind() for _ in range(count))
        self.last, self.head = nn.LayerNorm(D), nn.Linear(D, D)

    def forward(self, x):
        if x.shape[0] > 98:
            return x
        for block in self.blocks[: len(self.blocks)]:
            x = block(x)
        return self.head(self.last(x))


def _seeded():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def x():
    return torch.randn(2, 5, D)


def ops_of(model, x) -> dict[str, int]:
    """The ops of ours that run, those that PyTorch's are the faster ones for too."""
    with fm.use_backend("cpu"), torch.profiler.profile() as profile:
        model(x)
    found = {
        e.key.partition("::")[2]: e.count for e in profile.key_averages() if "fastmodel::" in e.key
    }
    return {
        name: n for name, n in found.items() if name.endswith("norm") or name in ("rope", "swiglu")
    }


def passes(model, x):
    x = x.detach().clone().requires_grad_()
    out = model(x)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, [x, *model.parameters()], grad)]


def check(model, ours, x):
    """Against float64: a few times PyTorch's own error, and a rounding for each module between."""
    exact = passes(copy.deepcopy(model).double(), x.double())
    leaves = sum(not any(m.children()) for m in model.modules())
    for want, plain, found in zip(exact, passes(model, x), passes(ours, x), strict=True):
        scale = want.abs().max().item() or 1.0
        error = (found.double() - want).abs().max().item()
        assert (
            error <= 4 * (plain.double() - want).abs().max().item() + 8 * leaves * 2.0**-23 * scale
        )


MODELS = {
    # Within each block one, between blocks one each, and the last norm's.
    "block": (lambda: Stack(Block), {"add_layer_norm": 3 + 2 + 1, "layer_norm": 1}),
    "two-norms": (lambda: Stack(Parallel), {"add_layer_norm": 2 + 1, "layer_norm": 2 + 2}),
    "norm-and-gate": (
        lambda: Stack(GatesItsNorm),
        {"add_layer_norm": 3 + 1, "swiglu": 3, "layer_norm": 3},
    ),
    "norm-twice": (lambda: Stack(NormsTwice), {"add_layer_norm": 3 * 2 + 1}),
    "two-names": (lambda: OfTwoNames(), {"add_layer_norm": 2, "layer_norm": 1}),
    "graph-breaks": (lambda: Stack(Breaks), {"add_layer_norm": 3, "layer_norm": 3}),
    "rope-and-gate": (lambda: Stack(Attends), {"rope": 3, "swiglu": 3, "layer_norm": 1}),
    "cut-elsewhere": (lambda: Attends(3), {"swiglu": 1}),
}
models = pytest.mark.parametrize(("make", "expected"), MODELS.values(), ids=MODELS)


@models
def test_the_ops_that_run_and_their_gradients(make, expected, x):
    model = make()
    ours = by_rule(model, x)
    assert list(ours.state_dict()) == list(model.state_dict())
    assert ops_of(ours, x) == expected
    assert not found_out(fm.plan_of(ours)), "it was taken for one"
    for training in (True, False):
        check(model.train(training), ours.train(training), x)
    check(model, ours, torch.randn(3, 4, D))


@pytest.mark.parametrize(
    ("kind", "ops", "is_between"),
    [
        (Block, ["add + LayerNorm"], True),
        (Breaks, ["add + LayerNorm"], False),
        (Attends, ["SiLU * value", "rotary embedding"], False),
    ],
    ids=["block", "graph-breaks", "rope-and-gate"],
)
def test_a_row_for_each_forward(kind, ops, is_between, x):
    ours = by_rule(Stack(kind), x)
    found = [p.site for p in fm.plan_of(ours).swaps if p.pattern in ops]
    own = [f"blocks.{i} ({op})" for i in range(3) for op in ops]
    assert sorted(found) == sorted(own + ["add + LayerNorm"] * is_between)
    assert {p.capture for p in fm.plan_of(ours).swaps} == {"dynamo"}


def test_only_what_is_accepted(x):
    def of_one_block(candidate):
        return Decision(candidate.site.startswith("blocks.1 ("), "as asked")

    ours = fm.optimize(Stack(Block), x, select=of_one_block)
    assert ops_of(ours, x) == {"add_layer_norm": 1}

    def of_the_stack(candidate):
        return Decision(candidate.site == "add + LayerNorm", "as asked")

    ours = fm.optimize(Stack(Block), x, select=of_the_stack)
    assert ops_of(ours, x) == {"add_layer_norm": 3}


def test_a_block_on_its_own(x):
    """What its caller's graphs have of it, it has of itself where it is called by others."""
    ours = by_rule(Stack(Block), x)
    ours(x)
    assert ops_of(ours.blocks[1], x) == {"add_layer_norm": 1, "layer_norm": 1}
    torch.testing.assert_close(ours.blocks[1](x), fm.revert(ours).blocks[1](x))


@pytest.mark.parametrize("name", ["blocks.1.middle", "blocks.1", "blocks.1.first", "head", "last"])
def test_a_hook_registered_later_is_heard(x, name):
    ours = by_rule(Stack(Block), x)
    plain = fm.revert(ours)
    ours(x)
    heard, expected = [], []
    ours.get_submodule(name).register_forward_hook(lambda m, i, out: heard.append((*i, out)))
    plain.get_submodule(name).register_forward_hook(lambda m, i, out: expected.append((*i, out)))
    torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(heard, expected)
    assert len(heard) == 1


def test_a_module_with_a_hook_is_not_absorbed(x):
    model = Stack(Block)
    heard = []
    model.blocks[1].middle.register_forward_hook(lambda *_: heard.append(1))
    ours = by_rule(model, x)
    heard.clear()
    assert ops_of(ours, x) == {"add_layer_norm": 5, "layer_norm": 1}
    assert heard == [1]


def test_copies_and_new_parameters(x):
    ours = by_rule(Stack(Block), x)
    ours(x)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        with torch.no_grad():
            for p in twin.parameters():
                p.add_(0.5)
        torch.testing.assert_close(twin(x), fm.revert(twin)(x), rtol=1e-4, atol=1e-4)
    other = {name: torch.randn_like(value) for name, value in ours.state_dict().items()}
    ours.load_state_dict(other, assign=True)
    torch.testing.assert_close(ours(x), fm.revert(ours)(x), rtol=1e-4, atol=1e-4)
    ours.blocks[2] = nn.Linear(D, D)
    torch.testing.assert_close(ours(x), fm.revert(ours)(x), rtol=1e-4, atol=1e-4)


class Flagged(Block):
    """Another norm where a flag says so: absorbed in graphs that the example inputs did not show."""

    def forward(self, x, other=False):
        if x.shape[0] > 99:
            return x
        total = x + self.first(x)
        return (self.norm if other else self.middle)(total) + total


def test_hooks_of_what_the_examples_did_not_show(x):
    model = Flagged()
    ours = by_rule(model, x)
    with fm.use_backend("cpu"):
        torch.testing.assert_close(ours(x, other=True), model(x, other=True), rtol=1e-5, atol=1e-5)
    heard = []
    ours.norm.register_forward_hook(lambda *_: heard.append(1))
    ours(x, other=True)
    ours(x)
    assert heard == [1]


class Hides(Block):
    """Its norm is not in the tree."""

    def __init__(self):
        super().__init__()
        self.hidden = (nn.LayerNorm(D),)

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = x + self.first(x)
        return self.hidden[0](total) + self.norm(self.middle(self.second(x)))


def test_what_is_not_in_the_tree_is_left(x):
    model = Hides()
    ours = by_rule(model, x)
    assert ops_of(ours, x) == {"layer_norm": 2}
    heard = []
    ours.hidden[0].register_forward_hook(lambda *_: heard.append(1))
    torch.testing.assert_close(ours(x), model(x))
    assert len(heard) == 2  # it is the model's, too


class Alike(nn.Module):
    """Names of which one begins as the other does."""

    def __init__(self):
        super().__init__()
        self.part, self.part2 = Block(), Block()

    def forward(self, x):
        return self.part2(self.part(x))


def test_names_that_begin_alike(x):
    model = Alike()
    ours = by_rule(model, x)
    assert ops_of(ours, x) == {"add_layer_norm": 2, "layer_norm": 2}
    torch.testing.assert_close(ours(x), model(x), rtol=1e-5, atol=1e-5)


class NoGradient(Block):
    """The sum is in another gradient mode than its norm."""

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        with torch.no_grad():
            total = x + self.first(x)
        return self.middle(total) + self.second(x) + self.norm(x)


class NoGradientOfActivation(Block):
    def forward(self, x):
        if x.shape[0] > 99:
            return x
        y = self.first(x)
        with torch.no_grad():
            y = F.relu(y)
        return self.middle(y) + self.second(x) + self.norm(x)


class Writes(Block):
    """A line between the sum and its norm writes to the sum."""

    write = staticmethod(lambda total: total)

    def forward(self, x):
        if x.shape[0] > 99:
            return x
        total = self.first(x) + self.second(x)
        self.write(total)
        return self.middle(total) + total + self.norm(x)


def writes(function):
    return type("Writes", (Writes,), {"write": staticmethod(function)})


@pytest.mark.parametrize(
    "kind",
    [
        NoGradient,
        NoGradientOfActivation,
        writes(torch.relu_),
        writes(lambda total: F.relu(total, inplace=True)),
        writes(lambda total: F.silu(total, True)),
        writes(
            lambda total: torch.exp(total, out=total) if not total.requires_grad else total.exp_()
        ),
        writes(lambda total: total.__setitem__(0, 1.0)),
        writes(lambda total: operator.itruediv(total, 3)),
    ],
    ids=["sum", "relu", "function", "flag", "flag-by-place", "out", "item", "augmented"],
)
def test_what_only_looks_alike_is_left(kind, x):
    model = kind()
    ours = by_rule(model, x)
    assert ops_of(ours, x) == {"layer_norm": 2}
    plan = fm.plan_of(ours)
    assert {p.replacement for p in plan.swaps} == {"LayerNorm"}
    assert not found_out(plan), "it was taken for one"
    assert kind is not NoGradientOfActivation or "gradient mode or autocast" in str(plan)
    for one in (model, ours):
        one.zero_grad()
        one(x).square().sum().backward()
    for a, b in zip(ours.parameters(), model.parameters(), strict=True):
        assert a.grad is b.grad is None or torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-4)
