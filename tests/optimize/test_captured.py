"""A captured forward runs the trace where it holds, and exactly the plain model everywhere else."""

import copy
import inspect
import operator
import pickle
import random
import re
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from support import zoo
from support.by_rule import by_rule
from torch import nn
from torch.nn.utils import parametrize, prune

import fastmodel as fm
from fastmodel.optimize import functional
from fastmodel.optimize.traced import UntraceableError
from fastmodel.optimize.trial import Examples, observe


class Optional(nn.Module):
    """Arguments, attributes and methods that a single trace cannot stand for."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.pool = nn.MaxPool2d(2)
        self.gain = 2.0

    def forward(self, x, raw=False, mask=None):
        y = self.conv(x)
        if raw:
            return y
        y = self.pool(F.relu(y)) * self.gain
        return y if mask is None else y * mask

    def features(self, x):
        return self.conv(x)


@pytest.fixture
def x():
    return torch.randn(2, 1, 9, 9)


@pytest.fixture
def plain():
    return Optional()


@pytest.fixture
def fused(plain, x):
    model = by_rule(plain, x)
    assert fm.plan_of(model).capture == "fx"
    return model


def is_fused(model, *args, **kwargs):
    """Does this call go through the fused op?"""
    with torch.profiler.profile() as profile:
        model(*args, **kwargs)
    return any("fastmodel::" in event.key for event in profile.key_averages())


def test_calls_that_the_trace_stands_for(plain, fused, x):
    for args, kwargs in [
        ((x,), {}),
        ((), {"x": x}),
        ((x, False, None), {}),
        ((x,), {"raw": False}),
    ]:
        assert is_fused(fused, *args, **kwargs)
        torch.testing.assert_close(fused(*args, **kwargs), plain(*args, **kwargs))


def test_calls_with_other_arguments(plain, fused, x):
    mask = torch.rand(2, 3, 3, 3)
    for args, kwargs in [((x, True), {}), ((x,), {"mask": mask}), ((x, 0), {})]:
        assert not is_fused(fused, *args, **kwargs)
        assert torch.equal(fused(*args, **kwargs), plain(*args, **kwargs))
    for args, kwargs in [((), {}), ((x,), {"other": 1}), ((x, False, None, 1), {})]:
        with pytest.raises(TypeError, match="forward"):
            fused(*args, **kwargs)


def test_a_mask_among_the_examples_is_traced(plain, x):
    mask = torch.rand(2, 3, 3, 3)
    fused = by_rule(plain, {"x": x, "mask": mask})
    assert is_fused(fused, x, mask=mask) and not is_fused(fused, x)
    torch.testing.assert_close(fused(x, mask=mask), plain(x, mask=mask))
    torch.testing.assert_close(fused(x), plain(x))


def test_an_attribute_that_changes(plain, fused, x):
    plain.gain = fused.gain = 3.0
    assert not is_fused(fused, x)
    assert torch.equal(fused(x), plain(x))


@pytest.mark.parametrize("name", ["conv", "pool"])
def test_a_hook_registered_later_hears_what_it_would(plain, fused, x, name):
    heard = []
    handle = fused.get_submodule(name).register_forward_hook(lambda m, i, out: heard.append(out))
    fused(x)
    handle.remove()
    expected = plain.conv(x) if name == "conv" else plain.pool(F.relu(plain.conv(x)))
    assert torch.equal(heard[0], expected)
    assert is_fused(fused, x)


def test_a_module_put_in_another_place(plain, fused, x):
    fused.conv = plain.conv = nn.Sequential(plain.conv, nn.Tanh())
    assert torch.equal(fused(x), plain(x))


def test_pruning_and_parametrization_later(plain, fused, x):
    prune.l1_unstructured(fused.conv, "weight", 0.5)
    weight = fused.conv.weight
    expected = 2.0 * F.max_pool2d(F.relu(F.conv2d(x, weight, plain.conv.bias)), 2)
    torch.testing.assert_close(fused(x), expected)
    other = by_rule(Optional(), x)
    parametrize.register_parametrization(other.conv, "weight", zoo.Halved())
    expected = 2.0 * F.max_pool2d(F.relu(F.conv2d(x, other.conv.weight, other.conv.bias)), 2)
    torch.testing.assert_close(other(x), expected)


def test_a_replica_runs_on_its_own_parameters(fused, x):
    replica, conv = fused._replicate_for_data_parallel(), fused.conv._replicate_for_data_parallel()
    conv.weight, conv.bias = torch.zeros_like(fused.conv.weight), torch.ones(3)
    replica._modules["conv"] = replica.conv = conv
    assert torch.equal(replica(x), torch.full((2, 3, 3, 3), 2.0))


def test_other_methods_and_children_stay_right(plain, fused, x):
    assert torch.equal(fused.features(x), plain.features(x))
    assert torch.equal(fused.conv(x), plain.conv(x))
    assert isinstance(fused, Optional)
    assert inspect.signature(fused.forward) == inspect.signature(plain.forward)
    assert "(fused) conv: Conv2d + ReLU + MaxPool2d" in repr(fused)


def test_parameters_replaced_reach_the_fused_module(plain, fused, x):
    zeros = {name: torch.zeros_like(p) for name, p in fused.named_parameters()}
    assert torch.equal(torch.func.functional_call(fused, zeros, (x,)), torch.zeros(2, 3, 3, 3))
    assert is_fused(fused, x)
    fused = by_rule(plain, x)
    fused.load_state_dict(zeros, assign=True)
    assert is_fused(fused, x) and torch.equal(fused(x), torch.zeros(2, 3, 3, 3))
    assert plain.conv.weight.abs().sum() > 0
    fused = by_rule(plain, x).to(torch.float64)
    assert fused(x.double()).dtype == torch.float64 and is_fused(fused, x.double())


def test_a_pickle_of_a_class_that_moved_says_so(fused):
    """The class itself is what is pickled, under its own name."""
    assert b"test_captured" in pickle.dumps(fused) and type(fused).__module__ == Optional.__module__
    assert type(pickle.loads(pickle.dumps(fused))) is type(fused)
    assert type(copy.deepcopy(fused)) is type(fused)


class Registered(zoo.Residual):
    """Its subclasses have to give a name."""

    names: ClassVar[list[str]] = []

    def __init_subclass__(cls, *, name):
        cls.names.append(name)


class Known(Registered, name="known"):
    pass


def test_a_registry_of_subclasses_is_not_told():
    fused = by_rule(Known(), torch.randn(2, 3, 5, 5))
    assert fm.plan_of(fused).swaps and Registered.names == ["known"]
    assert isinstance(copy.deepcopy(fused), Known)


class WritesItsInput(nn.Module):
    """The conv's input is written to before the ReLU and the pool are called."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        y = self.conv(x)
        x.add_(1)
        y = F.relu(y)
        x.mul_(2)
        return F.max_pool2d(y, 2) + x.mean()


class Augments(nn.Module):
    """x += y, where another name keeps x; the layer that is added begins at zero, as adapters do."""

    def __init__(self, name):
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        nn.init.zeros_(self.second.weight), nn.init.constant_(self.second.bias, name == "imul")
        self.operator = getattr(operator, name)

    def forward(self, x):
        value = kept = self.first(x)
        value = self.operator(value, self.second(x))
        return self.norm(value) + kept


@pytest.mark.parametrize("name", ["iadd", "isub", "imul"])
def test_an_augmented_assignment_is_one(name):
    plain, x = Augments(name), torch.randn(3, 4)
    fused = by_rule(plain, x)
    assert {p.site: p.capture for p in fm.plan_of(fused).swaps} == {"norm": "fx"}
    nn.init.ones_(plain.second.weight)
    assert torch.equal(fused(x), plain(x))


def test_the_fused_call_stands_where_the_conv_stood(x):
    plain = WritesItsInput()
    kept = x.clone()
    fused = by_rule(plain, x)
    assert torch.equal(x, kept)
    assert fm.plan_of(fused).swaps
    with torch.no_grad():
        torch.testing.assert_close(fused(x.clone()), plain(x.clone()))


class Refused(nn.Module):
    """Its forward is one of the functions below."""

    def __init__(self, body):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.body = body
        self.seen = []

    def forward(self, x):
        return self.body(self, x)


def keeps(self, x):
    self.seen.append(1)
    return F.relu(self.conv(x))


def draws(self, x):
    return F.relu(self.conv(x)) if random.random() < 2 else x


def makes(self, x):
    return F.relu(self.conv(x)) + torch.ones(1) * 2


def casts(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return F.relu(self.conv(x)).float()


def branches(self, x):
    return F.relu(self.conv(x)) if x.sum() < 1e9 else x


def escapes(self, x):
    return F.relu(self.conv(x)) if type(x) is torch.Tensor else self.conv(x)


@pytest.mark.parametrize(
    ("body", "words"),
    [(draws, "draws random numbers"), (escapes, "no ReLU after it")],
)
def test_a_trace_that_would_not_hold_is_refused(body, words, x):
    plain = Refused(body)
    fused = by_rule(plain, x)
    (place,) = fm.plan_of(fused).left
    assert words in place.reason and not fm.plan_of(fused).swaps
    assert type(fused) is Refused
    assert torch.equal(fused(x), plain(x))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (keeps, "sets self.seen"),
        (makes, "makes a tensor"),
        (casts, "autocast part of the way"),
        (branches, "does not trace: symbolically traced variables cannot be used"),
    ],
)
def test_what_no_trace_holds_for_dynamo_follows(body, words, x):
    plain = Refused(body)
    with pytest.raises(UntraceableError, match=re.escape(words)):
        functional.capture(plain, "", observe(plain, Examples((x,), {})))
    fused = by_rule(plain, x)
    (place,) = fm.plan_of(fused).swaps
    assert (place.capture, place.replacement) == ("dynamo", "ConvReLU2d")
    assert plain.seen == [] and fused.seen == []
    for calls in range(1, 4):
        for one in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
            torch.testing.assert_close(one(x), plain(x), rtol=2e-2, atol=2e-2)
            assert is_fused(one, x)
        fused(x)
        assert len(fused.seen) == (calls if body is keeps else 0)


def test_forwards_that_are_not_read(x):
    class Keywords(zoo.Residual):
        def forward(self, x, **kwargs):
            return super().forward(x)

    fused = by_rule(Keywords(), torch.randn(2, 3, 5, 5))
    assert {p.capture for p in fm.plan_of(fused).swaps} <= {"dynamo"}
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    reasons = {p.site: p.reason for p in fm.plan_of(by_rule(encoder, torch.randn(2, 3, 8))).left}
    assert "PyTorch's own" in reasons["linear1"] or "do not reach it" in reasons["linear1"]
    decoder = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)
    plan = fm.plan_of(by_rule(decoder, (torch.randn(2, 3, 8), torch.randn(2, 3, 8))))
    assert {p.capture for p in plan.swaps} <= {"sequential"}
    assert "PyTorch's own" in {p.site: p.reason for p in plan.left}["linear1"]
    plain = zoo.Residual()
    plain.forward = plain.conv1.forward
    fused = by_rule(plain, torch.randn(2, 3, 5, 5))
    assert not fm.plan_of(fused).swaps


class Part(nn.Module):
    """Calls a layer that another part calls too."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return F.relu(self.conv(x))


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Part(nn.Conv2d(1, 2, 3))
        self.second = Part(self.first.conv)

    def forward(self, x):
        return self.first(x).sum() + self.second(x[..., :5])


def test_a_layer_of_two_callers_has_a_row_for_each(x):
    plain = Parts()
    fused = by_rule(plain, x)
    rows = [(p.site, p.shape) for p in fm.plan_of(fused).swaps]
    assert rows == [("first.conv", (2, 1, 9, 9)), ("first.conv", (2, 1, 9, 5))]
    torch.testing.assert_close(fused(x), plain(x))
    with torch.profiler.profile() as profile:
        fused(x)
    assert {e.key: e.count for e in profile.key_averages()}["fastmodel::conv_relu"] == 2
