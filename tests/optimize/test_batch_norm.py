"""A batch norm and the ReLU after it: found in sequences, traced forwards and Dynamo's graphs.

Its statistics are the model's own before and after; trials and checks leave them alone.
"""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.by_rule import by_rule
from torch import nn
from torch.nn.utils import parametrize

import fastmodel as fm
from fastmodel.optimize import Decision
from fastmodel.optimize.verify import verify

FUSED = "BatchNormReLU2d"


def sequence():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False),
        nn.BatchNorm2d(5, momentum=0.3),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4),
    )


class Traced(nn.Module):
    """Each spelling of the ReLU, and a batch norm whose value is read twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.first, self.second = nn.BatchNorm2d(5, momentum=0.3), nn.BatchNorm2d(5, affine=False)
        self.third, self.twice, self.six = (nn.BatchNorm2d(5) for _ in range(3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(self.conv(x)))
        x = F.relu(self.second(x), inplace=True)
        x = self.third(x).relu_()
        y = self.twice(x)
        return F.relu6(self.six(F.relu(y) + y))


class Followed(nn.Module):
    """Control flow on values: Dynamo's."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, bias=False)
        self.first, self.second = nn.BatchNorm2d(5, momentum=0.3), nn.BatchNorm2d(5)

    def forward(self, x):
        x = F.relu(self.first(self.conv(x)))
        if x.sum() > 1e9:
            return x
        return self.second(x)


MODELS = {"sequential": sequence, "fx": Traced, "dynamo": Followed}
EXPECTED = {
    "sequential": {"1": FUSED},
    "fx": dict.fromkeys(("first", "second", "third"), FUSED),
    "dynamo": {"first": FUSED},
}
NAME = {"sequential": "1", "fx": "first", "dynamo": "first"}
everywhere = pytest.mark.parametrize("way", MODELS)


@pytest.fixture
def x():
    return torch.randn(6, 3, 9, 9) + 1.0


def norm_of(model, way):
    return model.get_submodule(NAME[way])


def swaps(model):
    return {place.site: place.replacement for place in fm.plan_of(model).swaps}


def buffers(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def assert_same_buffers(model, expected):
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, expected[name], msg=name)


def assert_same_training(fused, plain, steps=3):
    """Outputs, gradients and statistics over some batches, in the modes that the modules have."""
    for _ in range(steps):
        batch = torch.randn(6, 3, 9, 9) + 1.0
        for model in (fused, plain):
            model.zero_grad()
        ours, theirs = fused(batch), plain(batch)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        (ours * batch.mean()).square().sum().backward()
        (theirs * batch.mean()).square().sum().backward()
        for (name, p), q in zip(fused.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3, msg=name)
    assert_same_buffers(fused, dict(plain.named_buffers()))


@everywhere
def test_found_and_right(way, x):
    plain = MODELS[way]()
    fused = by_rule(copy.deepcopy(plain), x)
    assert swaps(fused) == EXPECTED[way]
    assert fm.plan_of(fused).capture == way
    assert list(fused.state_dict()) == list(plain.state_dict())
    assert_same_training(fused, plain)
    assert norm_of(fused, way).num_batches_tracked == 3
    before = buffers(fused)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    assert_same_buffers(fused, before)


@everywhere
@pytest.mark.parametrize("select", ["static", "measured"])
@pytest.mark.parametrize("training", [True, False])
def test_the_models_statistics_stay(way, select, training, x):
    model = MODELS[way]().train(training)
    norm_of(model, way).running_mean.fill_(0.25)
    before = buffers(model)
    fused = fm.optimize(model, x, select=select, budget_s=20.0)
    for one in (model, fused):
        assert all(torch.equal(b, before[name]) for name, b in one.named_buffers())
        assert one.training == training


@everywhere
def test_both_share_the_very_statistics(way, x):
    model = MODELS[way]()
    fused = by_rule(model, x)
    for name, buffer in model.named_buffers():
        assert fused.get_buffer(name) is buffer
    fused(x)
    assert norm_of(model, way).num_batches_tracked == 1
    fresh = MODELS[way]()
    fresh(x + 1.0)
    fused.load_state_dict(fresh.state_dict())
    torch.testing.assert_close(fused.eval()(x), fresh.eval()(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.eval()(x), fresh(x), rtol=1e-4, atol=1e-5)
    assert_same_buffers(model, dict(fresh.named_buffers()))


@everywhere
def test_buffers_that_are_replaced(way, x):
    """`.double()` and `load_state_dict(assign=True)` put other tensors there."""
    plain = MODELS[way]()
    plain(x)
    fused = by_rule(MODELS[way](), x)
    fused.load_state_dict(copy.deepcopy(plain.state_dict()), assign=True)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    wide, fused = plain.double().train(), fused.double().train()
    torch.testing.assert_close(fused(x.double()), wide(x.double()))
    assert_same_buffers(fused, dict(wide.named_buffers()))


@everywhere
def test_frozen_while_the_rest_trains(way, x):
    """A mode and options of its own, set after."""
    plain = MODELS[way]()
    plain(x)
    fused = by_rule(copy.deepcopy(plain), x)
    for model in (plain, fused):
        norm_of(model, way).eval()
    assert_same_training(fused, plain)
    for model in (plain, fused):
        norm_of(model, way).train().momentum = None
    assert_same_training(fused, plain)
    for model in (plain, fused):
        norm_of(model, way).eps = 0.5
    assert_same_training(fused, plain)


@everywhere
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_statistics_and_modes_of_their_own(way, twin_of, x):
    fused = by_rule(MODELS[way](), x)
    before = buffers(fused)
    twin, plain = twin_of(fused), fm.revert(twin_of(fused))
    assert_same_training(twin, plain)
    assert_same_buffers(fused, before)
    torch.testing.assert_close(twin.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)
    assert norm_of(fused, way).training


@everywhere
def test_revert(way, x):
    fused = by_rule(MODELS[way](), x)
    fused(x)
    norm_of(fused, way).momentum = 0.9
    fused = fused.double()
    plain = fm.revert(fused)
    norm = norm_of(plain, way)
    assert type(norm) is nn.BatchNorm2d and norm.momentum == 0.9
    for name, buffer in fused.named_buffers():
        assert plain.get_buffer(name) is buffer
    torch.testing.assert_close(plain.eval()(x.double()), fused.eval()(x.double()))


@pytest.mark.parametrize("way", ["fx", "dynamo"])
def test_a_hook_that_is_registered_later_is_called(way, x):
    fused = by_rule(MODELS[way](), x)
    seen = []
    norm_of(fused, way).register_forward_hook(lambda m, a, out: seen.append(out.min().item()))
    fused(x)
    assert len(seen) == 1 and seen[0] < 0


@everywhere
def test_compiles_with_its_statistics(way, x):
    if way == "dynamo":
        pytest.skip("it has a graph break of its own")
    plain = MODELS[way]()
    fused = by_rule(copy.deepcopy(plain), x)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)
    assert_same_buffers(fused, dict(plain.named_buffers()))


class Subclass(nn.BatchNorm2d):
    def forward(self, input):
        return -super().forward(input)


def with_hook():
    norm = nn.BatchNorm2d(3)
    norm.register_forward_pre_hook(lambda module, args: None)
    return norm


def with_more_state():
    norm = nn.BatchNorm2d(3)
    norm.register_buffer("seen", torch.zeros(1))
    return norm


def parametrized():
    norm = nn.BatchNorm2d(3)
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    return norm


REFUSED = {
    "subclass": (lambda: Subclass(3), "is a subclass"),
    "hook": (with_hook, "it has hooks"),
    "state": (with_more_state, "it has state beyond weight and bias"),
    "parametrized": (parametrized, "its weight is parametrized"),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(make, reason, x):
    plan = fm.plan_of(by_rule(nn.Sequential(make(), nn.ReLU()), x))
    (place,) = plan.left
    assert reason in place.reason and place.pattern.endswith(" + ReLU")
    assert not plan.swaps


def test_others_are_not_listed(x):
    """No ReLU at once: nothing to say."""
    model = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.BatchNorm2d(3),
        nn.ReLU6(),
        nn.BatchNorm2d(3),
    )
    plan = fm.plan_of(by_rule(model, x))
    assert not plan.swaps and not plan.left
    traced = {place.site for place in fm.plan_of(by_rule(Traced(), x)).left}
    assert traced == {"conv"}, "its output has two readers, or a ReLU6"


def test_already_fused(x):
    model = nn.Sequential(fm.nn.BatchNormReLU2d(3))
    (place,) = fm.plan_of(by_rule(model, x)).left
    assert place.reason == "already fused"


def test_called_twice_is_a_place_each_time(x):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return F.relu(self.norm(F.relu(self.norm(x)) * 2.0))

    plain = Shared()
    fused = by_rule(copy.deepcopy(plain), x)
    assert set(swaps(fused)) == {"norm (call 1)", "norm (call 2)"}
    torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)
    assert fused.norm.num_batches_tracked == 2
    assert_same_buffers(fused, dict(plain.named_buffers()))


def candidate_of(norm, x, wants=True):
    """As a measured selection gets it."""
    found = []

    def look(candidate):
        found.append(candidate)
        return Decision(False, "looked at")

    fm.optimize(nn.Sequential(norm, nn.ReLU()), x, select=look)
    (one,) = found
    return type(one)(**{**vars(one), "x": x.clone().requires_grad_(wants)})


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_right_kernel_passes_its_float64_check(options, training, dtype, x):
    norm = nn.BatchNorm2d(3, **options).to(dtype).train(training)
    before = buffers(norm)
    candidate = candidate_of(norm, x.to(dtype))
    assert candidate.plain[0].training == candidate.fused.training == training
    found = verify(candidate)
    assert found.passed, str(found)
    assert len(found.checks) == 2 + len(list(norm.parameters()))
    assert all(torch.equal(b, before[name]) for name, b in norm.named_buffers())


@pytest.mark.parametrize("share", [1e-4, 1e-3])
def test_a_wrong_kernel_does_not(share, x):
    one = candidate_of(nn.BatchNorm2d(3), x)
    honest = one.fused.forward

    def forward(input):
        return honest(input) * (1 + share)

    one.fused.forward = forward
    assert not verify(one).passed
