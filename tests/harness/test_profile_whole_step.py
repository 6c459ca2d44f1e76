"""The trial of a whole step: built from what the script did, gated, and leaving it alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmodel as fm
from fastmodel.harness.profile import Schedule, whole_step
from fastmodel.harness.profile.losses import LossCall, LossWatch
from fastmodel.harness.profile.phases import RootCall
from fastmodel.harness.profile.trials import Tried
from fastmodel.timing import Estimate


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc = nn.Linear(8 * 3 * 3, 4)

    def forward(self, x):
        return self.fc(F.max_pool2d(F.relu(self.conv(x)), 2).flatten(1))


@pytest.fixture
def root():
    torch.manual_seed(0)
    return RootCall(Net(), (torch.randn(8, 1, 8, 8),), {})


@pytest.fixture
def steps(monkeypatch):
    """Each of the two steps is run a few times instead of being timed."""
    seen = []

    def in_turns(before, after, device):
        for call in (before, after) * 3:
            call()
        seen.append((before, after))
        return Tried(2.0, 1.0, Estimate(2.0, 2.0, 2.0))

    monkeypatch.setattr(whole_step, "in_turns", in_turns)
    return seen


def loss_call(count=8):
    return LossCall(nn.CrossEntropyLoss(), (count, 4), torch.arange(count) % 4)


def test_losses_are_noted_by_whatever_name():
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
    cross_entropy = F.cross_entropy
    with LossWatch() as watch:
        found = [
            nn.CrossEntropyLoss(label_smoothing=0.1)(logits, targets),
            cross_entropy(logits, targets, reduction="sum"),
            F.mse_loss(logits, torch.zeros(5, 3)),
        ]
        with torch.no_grad():
            F.cross_entropy(logits, targets)  # an evaluation is no training step's
    assert [type(call.module) for call in watch.calls] == [nn.CrossEntropyLoss] * 2 + [nn.MSELoss]
    for call, value in zip(watch.calls, found, strict=True):
        assert call.output_shape == (5, 3)
        assert torch.equal(call.module(logits, call.targets), value)


def test_all_of_the_step_is_tried_and_the_script_is_left_alone(root, steps, monkeypatch):
    built = []
    optimize = fm.optimize
    monkeypatch.setattr(
        fm, "optimize", lambda *a, **k: built.append(optimize(*a, **k)) or built[-1]
    )
    optimizer = torch.optim.Adam(root.model.parameters(), lr=0.01, betas=(0.8, 0.9))
    before = {name: value.clone() for name, value in root.model.state_dict().items()}
    state = torch.get_rng_state()
    found = whole_step.whole_step(root, [loss_call()], [optimizer])
    assert found.has_loss and found.optimizer is optimizer and found.tried.ratio.value == 2.0
    assert len(steps) == 1
    (swap,) = fm.plan_of(built[-1]).swaps
    assert swap.replacement == "ConvReLUMaxPool2d"
    assert found.replaced == (f"{swap.pattern} ({swap.site})",)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, root.model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in root.model.parameters()) and not optimizer.state


def test_both_steps_have_what_the_script_has_and_fastmodels_forms_of_it(root, steps, monkeypatch):
    made = []
    real = whole_step._time

    def looked_at(workload, options, arms, has_optimizer):
        made.extend(arm.build(workload, options) for arm in arms)
        return real(workload, options, arms, has_optimizer)

    monkeypatch.setattr(whole_step, "_time", looked_at)
    optimizer = torch.optim.SGD(root.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    whole_step.whole_step(root, [loss_call()], [optimizer])
    plain, fused = made
    assert type(plain.optimizer) is torch.optim.SGD and type(fused.optimizer) is fm.optim.SGD
    assert type(plain.loss) is nn.CrossEntropyLoss and type(fused.loss) is fm.nn.CrossEntropyLoss
    for loop in made:
        (group,) = loop.optimizer.param_groups
        assert (group["momentum"], group["weight_decay"], group["lr"]) == (0.9, 0.01, 0.0)


def test_wrong_numbers_are_never_timed(root, steps, monkeypatch):
    optimize = fm.optimize

    def wrong(model, *arguments, **options):
        found = optimize(model, *arguments, **options)
        with torch.no_grad():
            found.fc.weight.mul_(1.01)
        return found

    monkeypatch.setattr(fm, "optimize", wrong)
    with pytest.raises(whole_step.NoTrialError, match="its numbers are not float64's"):
        whole_step.whole_step(root, [loss_call()], [])
    assert steps == []


@pytest.mark.parametrize(
    ("args", "kwargs", "reason"),
    [
        ((torch.ones(1), torch.ones(1)), {}, "more than one tensor"),
        ((torch.ones(1),), {"y": 1}, "more than one tensor"),
    ],
)
def test_a_call_that_cannot_be_built_is_a_reason(args, kwargs, reason):
    with pytest.raises(whole_step.NoTrialError, match=reason):
        whole_step.whole_step(RootCall(Net(), args, kwargs), [], [])


def test_an_optimizer_that_steps_more_than_the_model_is_left_out(root, steps):
    other = nn.Linear(2, 2)
    both = torch.optim.SGD([*root.model.parameters(), *other.parameters()], lr=0.1)
    assert whole_step.whole_step(root, [loss_call()], [both]).optimizer is None
    groups = [{"params": [p]} for p in root.model.parameters()]
    grouped = torch.optim.SGD(groups, lr=0.1)
    assert whole_step.whole_step(root, [loss_call()], [grouped]).optimizer is None
    elsewhere = torch.optim.SGD(other.parameters(), lr=0.1)
    own = torch.optim.SGD(root.model.parameters(), lr=0.1)
    assert whole_step.whole_step(root, [loss_call()], [elsewhere, own]).optimizer is own


@pytest.mark.parametrize("losses", [[], [loss_call(7)], [loss_call(), loss_call()]])
def test_without_the_one_loss_the_outputs_are_summed(root, steps, losses):
    assert not whole_step.whole_step(root, losses, []).has_loss


def test_a_profile_tries_the_whole_step(monkeypatch):
    quick = Schedule(wait=1, timed=2, warmup=1, active=2, control=0)
    with fm.profile(quick) as p:
        torch.manual_seed(0)
        model, x, y = Net(), torch.randn(32, 1, 8, 8), torch.arange(32) % 4
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(7):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            p.step()
    found = next((i for i in p.report.advice if i.name == "fastmodel-step"), None)
    if found is None:  # on a busy machine the trial may show nothing
        assert "tried, and no faster" in p.report.missing["fastmodel-step"]
        return
    assert "forward, loss, backward and optimizer of Net" in found.how
    assert p.report.estimate.advice == ["fastmodel-step"]
