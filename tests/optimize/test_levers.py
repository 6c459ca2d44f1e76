"""The levers that only change how the whole model is run: its entry, compile."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support import zoo
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.optimize import levers, measured, trials
from fastmodel.optimize.evidence import Measurement
from fastmodel.optimize.levers import Built, pull
from fastmodel.optimize.step import Training

FAST = Measurement(2e-3, 1e-3, 2.0, 1.9, 2.1, 8)


@pytest.fixture
def x():
    return torch.randn(4, 1, 12, 12)


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled, in the order of the calls; by a backend that makes no machine code."""
    calls: list[tuple[nn.Module, dict]] = []
    honest = nn.Module.compile

    def compile(self, **options):
        calls.append((self, options))
        honest(self, backend="aot_eager", **options)

    monkeypatch.setattr(nn.Module, "compile", compile)
    return calls


def compiled_model(plain, x):
    return pull(Built(by_rule(plain, x), Training()), ["compile"]).model


def test_layout_and_autocast_at_one_entry():
    x = torch.randn(2, 3, 10, 10)
    model = pull(Built(by_rule(zoo.Residual(), x), Training()), ["channels_last", "autocast"]).model
    seen = []
    model.conv1.register_forward_hook(lambda m, args, out: seen.extend((args[0], out)))
    model(x)
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[1].dtype is torch.bfloat16


class TestCompile:
    def test_the_swapped_model_is_compiled_in_its_place(self, x, compiled):
        plain = zoo.Functional()
        model = compiled_model(plain, x)
        assert compiled == [(model, {"dynamic": False})]
        assert model._compiled_call_impl is not None and plain._compiled_call_impl is None
        for _ in range(2):
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)
        model(x).square().sum().backward()
        found = [p.grad for p in plain.parameters()]  # the very Parameters
        plain.zero_grad()
        plain(x).square().sum().backward()
        for a, p in zip(found, plain.parameters(), strict=True):
            torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)

    def test_state_copies_and_the_plain_model_again(self, x, compiled):
        plain = zoo.Functional()
        model = compiled_model(plain, x)
        model(x)
        assert list(model.state_dict()) == list(plain.state_dict())
        model.load_state_dict(plain.state_dict())
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), fm.revert(model)):
            torch.testing.assert_close(twin(x), plain(x), rtol=1e-4, atol=1e-5)
        assert twin._compiled_call_impl is None
        assert by_rule(model, x)._compiled_call_impl is None  # optimized anew, to be compiled anew

    def test_only_where_it_is_asked_for(self, x, compiled, monkeypatch):
        monkeypatch.setattr(trials, "race", lambda *_: FAST)
        monkeypatch.setattr(measured, "race", lambda *_: FAST)
        monkeypatch.setattr(measured, "ranking", lambda arms, *_: list(arms)[::-1])
        model = fm.optimize(zoo.Functional(), x)
        assert not compiled and "compile" not in levers.DEFAULT
        model = fm.optimize(zoo.Functional(), x, levers=("sites", "compile"))
        assert fm.plan_of(model).pulled == ("compile",) and fm.plan_of(model).swaps
        assert compiled[-1][0] is model

    def test_a_sequence_is_refused(self, x, compiled, monkeypatch):
        monkeypatch.setattr(trials, "race", lambda *_: FAST)
        monkeypatch.setattr(measured, "race", lambda *_: FAST)
        plan = fm.plan_of(fm.optimize(zoo.lenet(), x, levers=("sites", "compile")))
        (lever,) = plan.levers
        assert not lever.is_pulled and "nn.Sequential.compile() compiles nothing" in lever.reason
        assert not compiled
