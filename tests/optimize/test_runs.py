"""Neighbouring calls of a captured forward are one node of the graph; elsewhere it is the plain model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support import zoo
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.optimize.runs import Run


class Net(nn.Module):
    """A small CNN as tutorials write it; the lines between its convolutions and its linears vary."""

    def __init__(self, flatten=lambda self, x: torch.flatten(x, 1), between=lambda self, x: x):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.flat = nn.Flatten()
        self.norm = nn.BatchNorm1d(32)
        self.fc1 = nn.Linear(32, 16)
        self.fc2 = nn.Linear(16, 3)
        self.flatten, self.between = flatten, between

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = self.flatten(self, x)
        x = self.between(self, x)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


@pytest.fixture
def x():
    return torch.randn(5, 1, 14, 14)


def runs_of(model: nn.Module) -> list[Run]:
    return [value for value in vars(model).values() if isinstance(value, Run)]


def is_chained(out: torch.Tensor) -> bool:
    return "ChainBackward" in type(out.grad_fn).__name__


def step(model: nn.Module, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor | None]:
    """Output and gradients of one training step."""
    model.zero_grad()
    torch.manual_seed(seed)
    out = model(x)
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out.detach(), *(p.grad for p in model.parameters())]


def assert_same(found, expected) -> None:
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_forward_is_one_node(x):
    plain = Net()
    fused = by_rule(plain, x)
    assert [p.site for p in fm.plan_of(fused).swaps] == ["conv1", "conv2", "fc1"]
    for seed in range(4):  # captured, replayed and captured backwards, replayed
        x = torch.randn_like(x)
        expected = step(plain, x)
        assert_same(step(fused, x, seed), expected)
    assert is_chained(fused(x))
    assert is_chained(fused.eval()(x))
    assert_same(step(fused, x), step(plain.eval(), x))


FLATTENS = {
    "torch.flatten": lambda self, x: torch.flatten(x, 1),
    "keyword": lambda self, x: torch.flatten(x, start_dim=1),
    "x.flatten": lambda self, x: x.flatten(1, -1),
    "module": lambda self, x: self.flat(x),
    "view, size": lambda self, x: x.view(x.size(0), -1),
    "view, shape": lambda self, x: x.view(x.shape[0], -1),
    "reshape": lambda self, x: x.reshape(x.size(0), -1),
}
OTHER_RESHAPES = {
    "view of a width": lambda self, x: x.view(-1, 32),
    "view of another batch": lambda self, x: x.view(self.flat(x).size(0), -1),
    "view of the channels": lambda self, x: x.view(-1, x.size(1) * 4),
    "flatten after a function": lambda self, x: torch.flatten(x * 1, 1),
    "flatten of names": lambda self, x: torch.flatten(input=x, start_dim=1),
}


@pytest.mark.parametrize("flatten", FLATTENS.values(), ids=FLATTENS)
def test_flattens_are_links(flatten, x):
    plain = Net(flatten)
    fused = by_rule(plain, x)
    out = fused(x)
    assert is_chained(out) and len(out.grad_fn.next_functions) == 9  # x and all parameters
    assert_same(step(fused, x), step(plain, x))


@pytest.mark.parametrize("flatten", OTHER_RESHAPES.values(), ids=OTHER_RESHAPES)
def test_other_reshapes_end_a_run(flatten, x):
    plain = Net(flatten)
    fused = by_rule(plain, x)
    assert not is_chained(fused(x))
    assert_same(step(fused, x), step(plain, x))


BETWEEN = {
    "a function": lambda self, x: x * 2,
    "batch norm": lambda self, x: self.norm(x),
    "a second reader": lambda self, x: self.flat(x) + x,
    "a write": lambda self, x: x.add_(1),
}


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_what_is_no_link_ends_a_run(between, x):
    plain = Net(between=between)
    fused = by_rule(plain, x)
    out = fused(x)
    # fc1 and fc2 have one fused module among them: too few for a node.
    assert not is_chained(out) and len(runs_of(fused)) == 2  # a mode each: the convolutions'
    assert_same(step(fused, x), step(plain, x))


class Parallel(nn.Module):
    """Calls next to each other that read the same value."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.a(x).relu()
        return self.b(x).relu() - y


def test_calls_beside_each_other_are_no_run():
    plain, x = Parallel(), torch.randn(4, 6)
    fused = by_rule(plain, x)
    assert len(fm.plan_of(fused).swaps) == 2 and not runs_of(fused)
    assert_same(step(fused, x), step(plain, x))


class Interleaved(nn.Module):
    """Another line stands between two calls, and writes to what the second one reads."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        y = self.a(x).relu()
        self.b.bias.data.mul_(2)
        return self.b(y).relu()


def test_no_call_moves_past_another_line():
    plain = Interleaved()
    x, bias = torch.randn(4, 6), plain.b.bias.detach().clone()
    fused = by_rule(plain, x)
    plain.b.bias.data.copy_(bias)
    assert not runs_of(fused)
    expected = plain(x)
    plain.b.bias.data.copy_(bias)
    torch.testing.assert_close(fused(x), expected)


def test_a_hook_put_on_a_link_later_is_called(x):
    plain = Net()
    fused = by_rule(plain, x)
    step(fused, x)
    heard = []
    handle = fused.fc2.register_forward_hook(lambda m, args, out: heard.append((args[0], out)))
    out = fused(x)
    assert torch.equal(heard[0][1], out) and not is_chained(out)
    torch.testing.assert_close(
        heard[0][0], F.relu(plain.fc1(torch.flatten(conv_part(plain, x), 1)))
    )
    handle.remove()
    assert is_chained(fused(x))
    fused.conv1.register_forward_hook(lambda *_: heard.append("conv1"))
    fused(x)
    assert heard[-1] == "conv1"


def conv_part(model, x):
    x = F.max_pool2d(F.relu(model.conv1(x)), 2)
    return F.max_pool2d(F.relu(model.conv2(x)), 2)


def test_a_link_put_in_the_place_of_another(x):
    plain = Net()
    fused = by_rule(plain, x)
    step(fused, x)
    for other in (nn.Linear(16, 5), nn.Sequential(nn.Linear(16, 3), nn.Tanh()), nn.Identity()):
        plain.fc2 = fused.fc2 = other
        for _ in range(3):
            assert_same(step(fused, x), step(plain, x))


def test_changes_between_steps(x):
    plain = Net()
    fused = copy.deepcopy(by_rule(plain, x))

    def freeze(model):
        model.conv1.requires_grad_(False)
        model.fc1.requires_grad_(False)

    def replace(model):
        model.fc1.weight = nn.Parameter(torch.full_like(model.fc1.weight, 0.1))

    changes = [
        freeze,
        lambda model: model.requires_grad_(True),
        replace,
        lambda model: model.to(memory_format=torch.channels_last),
        lambda model: model.double(),
    ]
    for change in changes:
        change(plain)
        change(fused)
        own = x.to(plain.fc2.weight.dtype)
        for seed in range(3):
            assert_same(step(fused, own, seed), step(plain, own, seed))
        assert is_chained(fused(own))


def test_second_derivatives(x):
    plain = Net()
    fused = by_rule(plain, x)
    step(fused, x)
    x.requires_grad_()
    found = []
    for model in (fused, plain):
        model.zero_grad()
        (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward(inputs=list(model.parameters())[:4])
        found.append([grad, *(p.grad for p in list(model.parameters())[:4])])
    assert_same(*found)


def test_single_calls_where_somebody_looks(x):
    fused = by_rule(Net(), x)
    with torch.no_grad():
        assert fused(x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_chained(fused(x))
    with torch.profiler.profile() as profile:
        assert not is_chained(fused(x))
    assert any("conv_relu_maxpool" in event.key for event in profile.key_averages())


def test_copies_pickles_and_the_plain_model_again(x):
    plain = Net(flat, flat)  # both can be pickled
    fused = by_rule(plain, x)
    for _ in range(3):
        step(fused, x)
    assert all(vars(run) for run in runs_of(fused)[:1])
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert len(runs_of(twin)) == 2
        assert not any(plans for run in runs_of(twin) for plans in vars(run).values())
        assert_same(step(twin, x), step(plain, x))
        assert is_chained(twin(x))
    with torch.no_grad():  # a copy is of its own weights
        twin.fc2.bias += 1
    torch.testing.assert_close(twin(x), plain(x) + 1)
    back = fm.revert(fused)
    assert not runs_of(back) and not is_chained(back(x))
    assert torch.equal(back(x), plain(x))


def flat(self, x):
    return torch.flatten(x, 1)


def test_compiled_in_one_graph(x):
    plain = Net()
    fused = by_rule(plain, x)
    compiled = torch.compile(fused, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-5)
        step(fused, x)  # what the chains learn is nothing to a compiled forward
    assert is_chained(fused(x))


def test_the_zoos_functional_network_is_chained():
    """So that what tests/optimize/test_life.py does with it is done with a chain."""
    fused = by_rule(zoo.Functional(), torch.randn(4, 1, 12, 12))
    assert len(runs_of(fused)) == 2


class Dropping(nn.Module):
    """Linear, ReLU and dropout; `drop` says how."""

    def __init__(self, drop, p=0.5):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(20, 64), nn.Linear(64, 8)
        self.dropout, self.p = nn.Dropout(p), p
        self.drop = drop

    def forward(self, x):
        x = self.drop(self, F.relu(self.fc1(x)))
        return F.relu(self.fc2(x))


DROPS = {
    "module": lambda self, x: self.dropout(x),
    "functional": lambda self, x: F.dropout(x, self.p, self.training),
    "keyword": lambda self, x: F.dropout(x, training=self.training),
    "in place": lambda self, x: F.dropout(x, 0.5, self.training, True),
    "torch.dropout": lambda self, x: torch.dropout(x, 0.5, self.training),
}


@pytest.mark.parametrize("was_training", [True, False], ids=["given in train", "given in eval"])
@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_dropout_is_taken_in(drop, was_training):
    x = torch.randn(50, 20)
    plain = Dropping(drop).train(was_training)
    fused = by_rule(plain, x)
    assert [p.replacement for p in fm.plan_of(fused).swaps] == ["LinearReLUDropout", "LinearReLU"]
    assert_same(step(fused.eval(), x), step(plain.eval(), x))
    fused.train()
    assert is_chained(fused(x))
    fused.fc2 = nn.Linear(64, 64)  # absorbed: every call is the plain model's now
    fused.fc2.weight.data, fused.fc2.bias.data = torch.eye(64), torch.zeros(64)
    kept = (fused(x) > 0).float().mean() / (F.relu(plain.fc1(x)) > 0).float().mean()
    assert abs(kept - 0.5) < 0.1


def hidden(model, x):
    """What the dropout leaves, read from the last layer's gradient: its weight's is relu'(...) x hidden."""
    model.zero_grad()
    with torch.no_grad():
        model.fc2.weight.zero_()
        model.fc2.bias.fill_(1)
    model(x).sum().backward()
    return model.fc2.weight.grad[0]


@pytest.mark.parametrize("drop", DROPS.values(), ids=DROPS)
def test_the_mode_is_the_models(drop):
    x = torch.randn(1, 20)
    plain = Dropping(drop)
    fused = by_rule(plain, x)
    whole = F.relu(plain.fc1(x))[0].detach()
    for _ in range(2):
        for _ in range(3):
            found = hidden(fused.train(), x)
            dropped = (found == 0) & (whole > 0)
            assert 0 < dropped.sum() < (whole > 0).sum()
            torch.testing.assert_close(found, torch.where(dropped, 0, 2 * whole))
            torch.testing.assert_close(hidden(fused.eval(), x), whole)


def test_a_dropout_with_a_mode_or_rate_of_its_own():
    x = torch.randn(1, 20)
    plain = Dropping(DROPS["module"])
    fused = by_rule(plain, x)
    whole = F.relu(plain.fc1(x))[0].detach()
    fused.dropout.eval()  # later, in the model's training mode
    torch.testing.assert_close(hidden(fused, x), whole)
    fused.eval()
    fused.dropout.train()
    assert (hidden(fused, x) == 0).sum() > (whole == 0).sum()
    fused.train()
    fused.dropout.p = 1.0
    assert hidden(fused, x).count_nonzero() == 0
    fused.dropout.p = 0.0
    torch.testing.assert_close(hidden(fused, x), whole)


def test_a_dropout_that_is_left():
    x = torch.randn(4, 20)
    always = Dropping(lambda self, x: F.dropout(x))  # in evaluation too
    monte_carlo = Dropping(DROPS["module"])
    monte_carlo.dropout.eval()
    hooked = Dropping(DROPS["module"])
    hooked.dropout.register_forward_hook(lambda *_: None)
    computed = Dropping(lambda self, x: F.dropout(x, float(x.dim()) / 4, self.training))
    for plain in (always, monte_carlo, hooked, computed):
        fused = by_rule(plain, x)
        kinds = [p.replacement for p in fm.plan_of(fused).swaps]
        assert kinds == ["LinearReLU", "LinearReLU"], plain.drop
    fused = by_rule(always.eval(), x)
    assert (hidden(fused, x[:1]) == 0).sum() > (F.relu(always.fc1(x[:1])) == 0).sum()
