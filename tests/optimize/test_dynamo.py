"""Forwards that FX cannot trace: read and run through Dynamo, graph breaks included."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support import zoo_models
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.optimize import Decision, dynamo


class Broken(nn.Module):
    """Modules and functions in several stretches between breaks, one layer called in two of them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.differs = nn.Conv2d(4, 4, 1)
        self.cut = nn.Conv2d(4, 4, 1)
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 6)
        self.gelu = nn.GELU()
        self.unread = nn.Linear(6, 3)

    def forward(self, x, flip=False):
        x = self.pool(self.relu(self.first(x)))
        if x.mean() > 1e6:
            return x
        x = F.relu(self.again(x))
        x = F.relu(self.again(x))
        x = self.differs(F.relu(self.differs(x)))
        x = self.cut(x)
        if x.sum() > 1e6:  # between the conv and its ReLU
            return x
        x = F.relu(x).mean((2, 3))
        x = -x if flip else x
        return self.unread(self.gelu(self.fc2(self.fc1(x).relu_())))


@pytest.fixture
def x():
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def fused(x):
    return by_rule(Broken(), x)


def gradients(model, x, **options):
    model.zero_grad()
    model(x, **options).square().sum().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_the_plan(fused):
    plan = fm.plan_of(fused)
    assert plan.capture == "dynamo" and "capture: dynamo" in str(plan)
    assert {p.site: p.replacement for p in plan.swaps} == {
        "first": "ConvReLUMaxPool2d",
        "again": "ConvReLU2d",
        "fc1": "LinearReLU",
        "fc2": "LinearGELU",
    }
    reasons = {p.site: p.reason for p in plan.left}
    assert "differs between its calls" in reasons["differs"]
    assert "returned" in reasons["cut"] or "readers" in reasons["cut"]


@pytest.mark.parametrize("flip", [False, True])
def test_it_computes_what_the_plain_model_does(x, flip):
    plain = Broken()
    fused = by_rule(plain, x)
    torch.testing.assert_close(fused(x, flip=flip), plain(x, flip=flip))
    expected = gradients(plain, x, flip=flip)
    for a, b in zip(gradients(fused, x, flip=flip), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    other = torch.randn(2, 3, 10, 12)
    torch.testing.assert_close(fused(other), plain(other))
    fused.eval(), plain.eval()
    torch.testing.assert_close(fused(x), plain(x))


def test_the_fused_ops_run(fused, x):
    with torch.profiler.profile() as profile:
        fused(x)
    names = [event.key for event in profile.key_averages()]
    assert {"fastmodel::conv_relu", "fastmodel::conv_relu_maxpool"} <= set(names)


def test_the_branches_of_control_flow(fused, x):
    plain = fm.revert(fused)
    large = x.abs() * 1e8
    torch.testing.assert_close(fused(large), plain(large), rtol=1e-5, atol=1e2)  # of about 1e8
    assert fused(large).dim() == 4


def test_copies_have_their_own(fused, x):
    fused(x)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        with torch.no_grad():
            for p in twin.parameters():
                p.mul_(-1)
        torch.testing.assert_close(twin(x), fm.revert(twin)(x))
    torch.testing.assert_close(fused(x), fm.revert(fused)(x))


def test_many_instances_of_one_class(x):
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(Part() for _ in range(10))

        def forward(self, x):
            for part in self.parts:
                x = part(x)
            return x

    plain = Deep()
    fused = by_rule(plain, x)
    assert len(fm.plan_of(fused).swaps) == 10
    torch.testing.assert_close(fused(x), plain(x))
    with torch.profiler.profile() as profile:
        fused(x)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["fastmodel::conv_relu"] == 10


class Part(nn.Module):
    """One of many of its class."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        return F.relu(self.conv(x))


@pytest.mark.parametrize("name", ["first", "relu", "pool", "fc2", "gelu"])
def test_a_hook_registered_later_hears_what_it_would(fused, x, name):
    fused(x)
    heard, expected = [], []
    plain = fm.revert(fused)
    fused.get_submodule(name).register_forward_hook(lambda m, i, out: heard.append(out.clone()))
    plain.get_submodule(name).register_forward_hook(lambda m, i, out: expected.append(out.clone()))
    fused(x), plain(x)
    assert len(heard) == 1 and torch.equal(heard[0], expected[0])


def test_new_parameters_and_other_modules(fused, x):
    fused(x)
    other = {name: torch.randn_like(value) for name, value in fused.state_dict().items()}
    fused.load_state_dict(other, assign=True)
    torch.testing.assert_close(fused(x), fm.revert(fused)(x), rtol=1e-4, atol=1e-4)
    fused.first = nn.Sequential(fused.first, nn.Tanh())
    torch.testing.assert_close(fused(x), fm.revert(fused)(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # Dynamo's own, at a break
def test_compiled_on_top(fused, x):
    compiled = torch.compile(fused, backend="eager")
    torch.testing.assert_close(compiled(x), fused(x))


def test_only_what_is_accepted(x):
    def convs(candidate):
        return Decision("Conv2d" in candidate.pattern, "as asked")

    fused = fm.optimize(Broken(), x, select=convs)
    assert {p.site for p in fm.plan_of(fused).swaps} == {"first", "again"}
    with torch.profiler.profile() as profile:
        fused(x)
    names = {event.key for event in profile.key_averages()}
    assert "fastmodel::conv_relu" in names and "fastmodel::linear_relu" not in names


def test_early_returns_and_flags():
    network = next(n for n in zoo_models.NETWORKS if n.name == "branches")
    plain, batch = network.make("test"), network.batch("test")
    fused = by_rule(plain, batch.inputs)
    plan = fm.plan_of(fused)
    assert plan.capture == "dynamo" and len(plan.swaps) >= 3
    for options in ({}, {"stop_early": True}):
        found, expected = fused(batch.inputs, **options), plain(batch.inputs, **options)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_dynamo_does_not_follow_either(x, monkeypatch):
    def refuse(owner, backend):
        def run(owner, *args):
            raise RuntimeError("too deep\nfor this")

        return run

    monkeypatch.setattr(dynamo, "_compiled", refuse)
    plan = fm.plan_of(by_rule(Broken(), x))
    assert not plan.swaps
    assert "Broken: its forward does not trace" in plan.left[0].reason
    assert "; Dynamo does not follow it: too deep" in plan.left[0].reason


class InTraining(nn.Module):
    """A ReLU in one of the modes, in a forward that FX does not trace."""

    def __init__(self, is_in_training):
        super().__init__()
        self.conv, self.is_in_training = nn.Conv2d(3, 3, 1), is_in_training

    def forward(self, x):
        if x.sum() > 1e9:
            return x
        x = self.conv(x)
        return F.relu(x) if self.training == self.is_in_training else x


@pytest.mark.parametrize("is_in_training", [False, True])
def test_what_one_mode_alone_has_is_left(x, is_in_training):
    model = InTraining(is_in_training)
    ours = by_rule(model, x)
    assert not fm.plan_of(ours).swaps
    (row,) = fm.plan_of(ours).left
    assert row.reason == "what follows it differs between its calls"
    for training in (False, True):
        assert torch.equal(ours.train(training)(x), model.train(training)(x))


class Twice(nn.Module):
    """The same convolution with and without a pool, in a forward that FX does not trace."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        if x.sum() < 1e9:
            x = F.relu(self.conv(x))
        return F.max_pool2d(F.relu(self.conv(x)), 2)


def test_calls_of_different_patterns_are_left():
    plain, x = Twice(), torch.randn(2, 1, 8, 8)
    fused = by_rule(plain, x)
    assert not fm.plan_of(fused).swaps
    assert "differs between its calls" in fm.plan_of(fused).left[0].reason
    assert torch.equal(fused(x), plain(x))
