"""`fm.optimize` as a whole: what it takes, what it refuses, and what can be done with what it returns."""

import copy
import importlib
import math
import random
import sys

import numpy
import pytest
import torch
import torch.nn.functional as F
from support import zoo
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.errors import BackendError, InputError
from fastmodel.optimize import Candidate, Decision, Measurement, static


@pytest.fixture
def x():
    return torch.randn(4, 1, 12, 12)


def test_the_function_and_the_package_share_a_name():
    import fastmodel.optimize.plan  # noqa: F401  (must not put the package in the function's place)
    from fastmodel.optimize import plan, run

    assert callable(fm.optimize) and fm.optimize is run.optimize
    assert plan.Plan is fm.Plan and plan is sys.modules["fastmodel.optimize.plan"]
    assert importlib.import_module("fastmodel.optimize").optimize is fm.optimize


@pytest.mark.parametrize("make", [zoo.lenet, zoo.Functional], ids=["sequential", "fx"])
class TestUse:
    """What people do with a model."""

    def test_trains_like_the_original(self, make, x):
        plain = make().eval()  # dropout off
        fused = by_rule(copy.deepcopy(plain), x)
        optimizer = torch.optim.SGD(fused.parameters(), lr=0.1, momentum=0.9)
        twin = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
        target = torch.randint(0, 3, (4,))
        losses = []
        for _ in range(5):
            for model, steps in ((fused, optimizer), (plain, twin)):
                steps.zero_grad()
                loss = F.cross_entropy(model(x), target)
                loss.backward()
                steps.step()
                losses.append(loss.item())
        assert losses[-1] < losses[0]
        for a, b in zip(losses[::2], losses[1::2], strict=True):
            assert math.isclose(a, b, rel_tol=1e-4)

    def test_an_optimizer_of_the_original_trains_the_result(self, make, x):
        plain = make()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
        fused = by_rule(plain, x).eval()
        before = fused(x)
        fused(x).square().sum().backward()
        optimizer.step()
        assert not torch.equal(fused(x), before)
        torch.testing.assert_close(fused(x), plain.eval()(x))

    def test_compiles_as_one_graph(self, make, x):
        fused = by_rule(make(), x).eval()
        compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), fused(x))
        compiled(x).sum().backward()
        gradient = next(fused.parameters()).grad.clone()
        fused.zero_grad()
        fused(x).sum().backward()
        # Outside of a graph nn.Linear may be a kernel of ours, whose sums run in another order.
        expected = next(fused.parameters()).grad
        torch.testing.assert_close(
            gradient, expected, rtol=1e-5, atol=1e-6 * expected.abs().max().item()
        )
        assert fm.plan_of(compiled) is fm.plan_of(fused)

    def test_wrapped_in_another_module(self, make, x):
        class Wrapper(nn.Module):
            def __init__(self, module):
                super().__init__()
                self.module = module

        wrapped = Wrapper(by_rule(make(), x))
        assert fm.plan_of(wrapped) is fm.plan_of(wrapped.module)
        wrapped.eval()
        assert not any(module.training for module in wrapped.modules())

    def test_the_plan_is_no_state(self, make, x):
        fused = by_rule(make(), x)
        assert not any("fastmodel" in key for key in fused.state_dict())
        assert not any("fastmodel" in name for name, _ in fused.named_modules())

    def test_the_fused_modules_follow_a_copy(self, make, x):
        fused = by_rule(make(), x).eval()
        other = copy.deepcopy(fused)
        with torch.no_grad():
            for p in other.parameters():
                p.mul_(-1)
        expected = make().eval()
        expected.load_state_dict(other.state_dict())
        torch.testing.assert_close(other(x), expected(x))


def test_a_sequential_stays_one(x):
    plain = zoo.lenet()
    fused = by_rule(plain, x)
    assert type(fused) is fm.nn.Sequential and len(fused) == len(plain)
    assert [type(m).__name__ for m in fused[:4]] == [zoo.POOLED, "Identity", "Identity", zoo.CONV]
    assert fused[0].weight is plain[0].weight and isinstance(fused[0], nn.Conv2d)
    assert fm.plan_of(fused).capture == "sequential"


def test_dropout_is_off_in_evaluation_and_on_in_training(x):
    fused = by_rule(zoo.FunctionalDropout(), x)
    fused.eval()
    assert torch.equal(fused(x), fused(x))
    fused.train()
    assert not torch.equal(fused(x), fused(x))


def test_training_branches_follow_the_mode(x):
    plain = zoo.FunctionalDropout()
    fused = by_rule(plain, x)
    for training in (True, False, True):
        plain.train(training), fused.train(training)
        torch.manual_seed(3)
        expected = plain(x.contiguous())
        torch.manual_seed(3)
        torch.testing.assert_close(fused(x), expected)


class Draws(nn.Module):
    """Moves every random generator, in both modes."""

    def forward(self, x):
        return x + torch.rand(()) + random.random() + numpy.random.rand()


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_buffers_and_random_state_are_as_before(x, training):
    model = zoo.BufferOnly().train(training)
    buffers = {name: b.clone() for name, b in model.named_buffers()}
    states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1].copy()
    by_rule(nn.Sequential(model, Draws()), x)
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (numpy.random.get_state()[1] == states[2]).all()
    for name, b in model.named_buffers():
        assert torch.equal(b, buffers[name])


class SelfReferring(nn.Module):
    """Attributes that point at its own modules, other than as children."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.order = [self.conv, nn.Tanh()]
        self.apply_conv = self.conv.forward
        self.hidden = {"conv": self.conv}
        self._register_load_state_dict_pre_hook(self.rename)
        self.loads = 0

    def rename(self, *_):
        self.loads += 1

    def forward(self, x):
        return F.relu(self.conv(x))


def test_attributes_point_into_the_copy(x):
    plain = SelfReferring()
    fused = by_rule(plain, x)
    assert fused.conv is not plain.conv
    assert fused.order[0] is fused.conv and fused.hidden["conv"] is fused.conv
    assert fused.apply_conv.__self__ is fused.conv
    fused.load_state_dict(plain.state_dict())
    assert fused.loads == 1 and plain.loads == 0
    fused.order.append(None)
    assert len(plain.order) == 2


def test_a_model_without_a_place(x):
    model = nn.Sequential(nn.Flatten(), nn.Tanh())
    plan = fm.plan_of(by_rule(model, x))
    assert (plan.swaps, plan.left, plan.capture) == ((), (), "none")
    assert plan.reason == "the model calls no Conv2d and no Linear"
    plan = fm.plan_of(by_rule(nn.Linear(12, 2), x))
    assert plan.left[0].site == "" and "no ReLU" in plan.reason and "(model)" in str(plan)


def test_the_plan_reads_as_a_table(x):
    plan = fm.plan_of(by_rule(zoo.Functional(), x))
    text = str(plan)
    assert text.splitlines()[0] == "plan: 3 swapped, 2 left; selection: static; capture: fx"
    assert "conv1  Conv2d + ReLU + MaxPool2d  ConvReLUMaxPool2d  4x1x12x12" in text
    assert "fc2     Linear" in text and all(line == line.rstrip() for line in text.splitlines())
    with pytest.raises(AttributeError):
        plan.swaps = ()


def test_a_strategy_decides_and_its_figures_are_kept(x):
    seen: list[Candidate] = []

    def only_convs(candidate):
        seen.append(candidate)
        figures = Measurement(0.5, 0.25, 2.0, 1.9, 2.1, 8)
        return Decision("Conv2d" in candidate.pattern, "as measured", figures)

    fused = fm.optimize(zoo.Functional(), x, select=only_convs)
    plan = fm.plan_of(fused)
    assert [place.site for place in plan.swaps] == ["conv1", "conv2"]
    refused = next(place for place in plan.left if place.site == "fc1")
    assert refused.reason == "as measured" and refused.replacement is None
    assert plan.selection == "only_convs" and "500.000     250.000  2.00 [1.90, 2.10]" in str(plan)
    assert type(fused).__name__ == "Functional"
    for candidate in seen:  # what a strategy is given can be run
        value = torch.randn(candidate.shape, dtype=candidate.dtype, device=candidate.device)
        torch.testing.assert_close(candidate.fused(value), candidate.plain(value))
    assert static(seen[0]).is_accepted and static(seen[0]).measurement is None


@pytest.mark.parametrize("make", [zoo.lenet, zoo.Functional], ids=["sequential", "fx"])
def test_a_swap_that_disagrees_is_dropped(make, x, monkeypatch):
    for kind in (fm.nn.LinearReLU, fm.nn.LinearReLUDropout):
        monkeypatch.setattr(
            kind, "forward", lambda self, x, honest=kind.forward: honest(self, x) + 0.01
        )
    model = make().eval()
    fused = by_rule(model, x)
    plan = fm.plan_of(fused)
    assert {place.replacement for place in plan.swaps} <= {zoo.POOLED, zoo.CONV} and plan.swaps
    (dropped,) = [place for place in plan.left if "dropped" in place.reason]
    assert dropped.pattern.startswith("Linear + ReLU") and "differs by more than" in dropped.reason
    torch.testing.assert_close(fused(x), model(x))


def test_a_swap_that_raises_is_dropped(x, monkeypatch):
    def refuse(self, x):
        raise ValueError("not today\nsecond line")

    monkeypatch.setattr(fm.nn.LinearReLUDropout, "forward", refuse)
    plan = fm.plan_of(by_rule(zoo.lenet(), x))
    (dropped,) = [place for place in plan.left if "dropped" in place.reason]
    assert "it raises ValueError: not today)" in dropped.reason


def test_a_fault_in_training_alone_is_found(x, monkeypatch):
    honest = fm.nn.ConvReLU2d.forward

    def forward(self, x):
        return honest(self, x) * (2 if self.training else 1)

    monkeypatch.setattr(fm.nn.ConvReLU2d, "forward", forward)
    plan = fm.plan_of(by_rule(zoo.lenet().eval(), x))
    (dropped,) = [place for place in plan.left if "dropped" in place.reason]
    assert dropped.site == "3" and "in training mode" in dropped.reason


def test_a_backend_asked_for_is_not_replaced(x):
    with fm.use_backend("cuda"), pytest.raises(BackendError):
        by_rule(zoo.lenet(), x)


def test_a_training_mode_that_does_not_take_the_examples():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4))
    fused = by_rule(model, torch.randn(1, 3))  # batch norm refuses a batch of one in training
    assert fm.plan_of(fused).swaps and fused.training


def test_ways_to_give_the_examples(x):
    model = zoo.Functional()
    for examples in (x, (x,), [x], {"x": x}):
        assert len(fm.plan_of(by_rule(model, examples)).swaps) == 3


@pytest.mark.parametrize(
    ("model", "examples", "words"),
    [
        (lambda x: x, torch.ones(1), "model must be an nn.Module, got function"),
        (nn.Linear(2, 2), 3, "example_inputs must be a tensor, a tuple"),
        (
            nn.Linear(2, 2),
            torch.ones(3, 5),
            "raises when called with example_inputs (RuntimeError: mat1",
        ),
        (nn.Linear(2, 2), (), "raises when called with example_inputs (TypeError"),
        (nn.LazyLinear(2), torch.ones(3, 5), "'weight' of the model has no shape yet"),
        (
            nn.Sequential(torch.compile(nn.Linear(2, 2), backend="eager")),
            torch.ones(2),
            "'0' of the model is compiled; optimize the plain one",
        ),
    ],
)
def test_bad_input(model, examples, words):
    with pytest.raises(InputError) as raised:
        by_rule(model, examples)
    text = str(raised.value)
    assert words in text and text.startswith("optimize: ") and "\n" not in text


def test_plan_of_a_plain_model(x):
    for model in (zoo.lenet(), 3):
        with pytest.raises(InputError, match="plan_of: "):
            fm.plan_of(model)


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.25), nn.Linear(8, 3))


def test_dropout_behind_a_linear_and_relu_is_taken_in():
    plain, x = mlp(), torch.randn(500, 6)
    fused = by_rule(plain, x)
    (swap,) = fm.plan_of(fused).swaps
    assert (swap.pattern, swap.replacement) == ("Linear + ReLU + Dropout", "LinearReLUDropout")
    assert fused[0].p == 0.25 and fused[0].weight is plain[0].weight
    assert list(fused.state_dict()) == list(plain.state_dict())
    hidden = fused.train()[:3](x)
    positive = plain[:2](x) > 0
    torch.testing.assert_close(hidden[hidden > 0], (plain[:2](x) / 0.75)[hidden > 0])
    assert 0.7 < (hidden > 0)[positive].double().mean() < 0.8
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x))


def test_dropout_with_a_mode_or_listeners_of_its_own_is_left():
    monte_carlo, hooked = mlp().eval(), mlp()
    monte_carlo[2].train()
    hooked[2].register_forward_hook(lambda *_: None)
    for plain in (monte_carlo, hooked):
        (swap,) = fm.plan_of(by_rule(plain, torch.randn(4, 6))).swaps
        assert swap.replacement == "LinearReLU"


ACTIVATIONS = {
    "Sigmoid": (nn.Sigmoid, (F.sigmoid, torch.sigmoid, lambda x: x.sigmoid_())),
    "Tanh": (nn.Tanh, (F.tanh, torch.tanh_, lambda x: x.tanh())),
    "GELU": (nn.GELU, (F.gelu,)),
    "SiLU": (nn.SiLU, (F.silu, lambda x: F.silu(x, inplace=True))),
}


class Activated(nn.Module):
    """A Linear and a function behind it, in a forward of its own."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(6, 8), function

    def forward(self, x):
        return self.function(self.linear(x)) * 2


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_behind_a_linear_is_taken_in(name):
    module, functions = ACTIVATIONS[name]
    x = torch.randn(5, 6)
    models = [nn.Sequential(nn.Linear(6, 8), module(), nn.Linear(8, 3)), *map(Activated, functions)]
    for plain in models:
        fused = by_rule(plain, x)
        (swap,) = fm.plan_of(fused).swaps
        assert (swap.pattern, swap.replacement) == (f"Linear + {name}", f"Linear{name}")
        torch.testing.assert_close(fused(x), plain(x))
        assert list(fused.state_dict()) == list(plain.state_dict())


def test_what_an_activation_cannot_be_taken_in_for():
    gelu = nn.Sequential(nn.Linear(6, 8), nn.GELU("tanh"))
    hooked = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    hooked[1].register_forward_hook(lambda *_: None)
    for plain, reason in (
        (gelu, "the GELU is approximated by tanh"),
        (Activated(lambda x: F.gelu(x, approximate="tanh")), "the GELU is approximated by tanh"),
        (hooked, "the Tanh has hooks"),
    ):
        plan = fm.plan_of(by_rule(plain, torch.randn(4, 6)))
        assert not plan.swaps and plan.left[0].reason == reason
    conv = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid())
    (left,) = fm.plan_of(by_rule(conv, torch.randn(1, 1, 5, 5))).left
    assert left.reason == "no ReLU after it (next: Sigmoid)"
