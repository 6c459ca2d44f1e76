"""The levers that only change how the whole model is run: its entry, compile."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from support import zoo
from support.by_rule import by_rule
from support.recorded_graph import RecordedGraph
from torch import nn

import fastmodel as fm
from fastmodel import capture
from fastmodel.optimize import levers, measured, trials
from fastmodel.optimize.evidence import Measurement
from fastmodel.optimize.levers import Built, pull
from fastmodel.optimize.run import Step
from fastmodel.optimize.step import Training, step_of
from fastmodel.optimize.trial import Examples

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


class TestCudaGraph:
    def subject(self, training, device="cuda"):
        return levers.Subject(nn.Linear(2, 1), None, training, None, torch.device(device))

    def training(self):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        return model, Training(nn.MSELoss(), optimizer, torch.zeros(3, 1))

    def test_what_it_needs(self, monkeypatch):
        refusal = levers.BY_NAME["cuda_graph"].refusal
        _, training = self.training()
        assert "has no CUDA graphs" in refusal(self.subject(training, "cpu"))
        assert "optimize_step" in refusal(self.subject(Training()))
        assert "optimize_step" in refusal(self.subject(Training(nn.MSELoss())))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert refusal(self.subject(training)) == "no CUDA device"
        monkeypatch.setattr(capture, "refusal_of", lambda *_: None)
        assert refusal(self.subject(training)) is None

    @pytest.mark.parametrize(
        ("options", "is_refused"),
        [({}, False), ({"fused": True}, False), ({"foreach": True}, True)],
    )
    def test_an_optimizer_whose_fused_form_can_be_captured(self, options, is_refused, monkeypatch):
        """PyTorch's SGD cannot, unless fused=True."""
        monkeypatch.setattr(capture, "refusal_of", capture.parts_refusal)
        model, training = self.training()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, **options)
        training = Training(training.loss, optimizer, training.targets)
        found = levers.BY_NAME["cuda_graph"].refusal(self.subject(training))
        assert ("on the host" in found) if is_refused else found is None

    def test_an_optimizer_that_has_no_fused_form(self, monkeypatch):
        monkeypatch.setattr(capture, "refusal_of", capture.parts_refusal)
        model, training = self.training()
        training = Training(training.loss, torch.optim.LBFGS(model.parameters()))
        found = levers.BY_NAME["cuda_graph"].refusal(self.subject(training))
        assert "LBFGS has no capturable option" in found

    def test_a_captured_step_trains_as_the_plain_one_does(self, monkeypatch):
        monkeypatch.setattr(capture, "refusal_of", lambda *_: None)
        monkeypatch.setattr(capture, "CudaGraph", lambda device: RecordedGraph())
        examples = Examples((torch.randn(3, 2),), {})
        found = []
        for names in ((), ("cuda_graph",)):
            torch.manual_seed(0)
            model, training = self.training()
            built = pull(Built(model, training), names)
            step = step_of(built.model, examples, built.training)
            for _ in range(6):
                step()
            found.append((model, training, step))
        (plain, _, _), (model, training, step) = found
        assert step.replayed_steps == 3
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        assert not training.optimizer.param_groups[0]["capturable"]  # what was given is not changed

    def test_the_step_as_one_call(self):
        model, training = self.training()
        batch = torch.randn(3, 2), torch.zeros(3, 1)
        step = Step(model, training.loss, training.optimizer).capture(batch)
        before = model.weight.clone()
        assert step(*batch).dim() == 0 and not torch.equal(before, model.weight)
