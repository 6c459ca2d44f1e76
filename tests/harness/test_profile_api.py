"""`fm.profile` around a loop: five shapes of it, and that the classes add up to the step."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.harness.profile import Schedule

QUICK = Schedule(wait=2, timed=3, warmup=1, active=4, control=2)
STEPS = QUICK.wait + QUICK.timed + QUICK.look + QUICK.warmup + QUICK.active


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 10),
    )


def batch(size=64):
    return torch.randn(size, 1, 28, 28), torch.randint(0, 10, (size,))


def plain(p):
    model, (x, y) = cnn(), batch()
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        p.step()


def loader(p):
    model, (x, y) = cnn(), batch(64 * STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for a, b in DataLoader(TensorDataset(x, y), batch_size=64, num_workers=2):
        optimizer.zero_grad()
        F.cross_entropy(model(a), b).backward()
        optimizer.step()
        p.step()


def accumulation(p):
    model, (x, y) = cnn(), batch(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(3):
            (F.cross_entropy(model(x), y) / 3).backward()
        optimizer.step()
        p.step()


def closure(p):
    model, (x, y) = cnn(), batch(32)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def evaluate():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(evaluate)
        p.step()


def two_optimizers(p):
    one, other, (x, y) = cnn(), cnn(), batch(32)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (one, other)]
    for _ in range(STEPS):
        for model, optimizer in zip((one, other), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        p.step()


class Hooks:
    """In the place of the profile: the optimizers' hooks mark the steps."""

    def step(self):
        pass


@pytest.mark.parametrize("by_optimizer", [False, True], ids=["step", "hooks"])
@pytest.mark.parametrize("loop", [plain, loader, accumulation, closure, two_optimizers])
def test_the_classes_add_up_to_the_step(loop, by_optimizer):
    with fm.profile(QUICK, by_optimizer=by_optimizer, has_trials=False) as p:
        loop(Hooks() if by_optimizer else p)
    report = p.report
    assert report.complete, report.incomplete_reason
    # Two optimizers are told apart after some calls, and a slow loader has a control run: a step or two more.
    assert STEPS <= report.steps_seen <= STEPS + QUICK.control
    assert report.phases.active == QUICK.active
    total_s = sum(part.time_s for part in report.classes)
    # Two clocks that are read microseconds apart, or milliseconds where another program comes between;
    # benchmarks/studies/profile_classes.py measures how near they are on a quiet machine.
    assert total_s == pytest.approx(report.profiled_step_s, rel=0.1, abs=2e-3)
    assert sum(part.time_s for part in report.kinds) == pytest.approx(total_s, rel=0.02)
    assert {part.name: part for part in report.classes}["kernel"].share > 0.2


def test_the_report_names_sites_lines_and_the_roof():
    with fm.profile(QUICK, has_trials=False) as p:
        model, (x, y) = cnn(), batch()
        optimizer = torch.optim.Adam(model.parameters())
        total = 0.0
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
            p.step()
    report = p.report
    names = [item.name for item in report.advice]
    assert names[0] == "fastmodel-conv_relu_maxpool"
    first = report.advice[0]
    assert first.where == ["0"] and "case mnist-conv1 against torch" in first.how
    assert report.estimate.speedup >= first.speedup > 1
    assert [item.gain_s for item in report.advice] == sorted(
        (item.gain_s for item in report.advice), reverse=True
    )
    (line,) = report.sync_points
    assert line.code == "total += loss.item()" and line.calls == 1
    assert (
        line.where.startswith("tests/harness/test_profile_api.py:")
        or "test_profile_api" in line.where
    )
    conv = next(row for row in report.operators if row.name == "aten::convolution")
    assert conv.kind == "conv forward" and conv.flops == 2 * 9 * 64 * 32 * 26 * 26
    assert conv.roofline_share > 0 and report.ceilings.gemm_gflop_per_s > 0
    text = str(p)
    assert "Where a step goes" in text and "Conv2d + ReLU + MaxPool2d in one kernel" in text


def test_the_loops_random_numbers_and_weights_are_those_without_it():
    def train(step):
        model, (x, y) = cnn(), batch()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(STEPS + 3):
            optimizer.zero_grad()
            F.cross_entropy(F.dropout(model(x), 0.5), y).backward()
            optimizer.step()
            step()
        return model.state_dict(), torch.rand(1)

    torch.manual_seed(0)
    expected, number = train(lambda: None)
    torch.manual_seed(0)
    with fm.profile(QUICK) as p:
        found, other = train(p.step)
    assert torch.equal(number, other)
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_a_block_that_raises_has_a_partial_report(tmp_path):
    with pytest.raises(ZeroDivisionError), fm.profile(QUICK) as p:
        raise ZeroDivisionError("planted")
    assert not p.report.complete
    assert p.report.incomplete_reason == "the block raised ZeroDivisionError: planted"
    assert (tmp_path / "x" / "profile.html") == p.write(tmp_path / "x")


def test_misuse_is_one_error():
    with pytest.raises(InputError, match="active must not be negative"):
        Schedule(active=-1)
    p = fm.profile(QUICK)
    with pytest.raises(InputError, match="once the `with` block has ended"):
        _ = p.report
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True),
        pytest.raises(InputError, match="a profiler is running already"),
        fm.profile(QUICK),
    ):
        pass
