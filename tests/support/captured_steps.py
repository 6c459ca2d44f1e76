"""A training step twice, captured over a recorded graph and stepped eagerly, and what both must agree in."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel import capture
from fastmodel.capture import WARM_STEPS
from support.recorded_graph import RecordedGraph

BATCH = 8


def use_recorded_graphs(monkeypatch) -> None:
    """Let captures be over `RecordedGraph`s, of which none has been made."""
    monkeypatch.setattr(capture, "CudaGraph", lambda device: RecordedGraph())
    torch.manual_seed(0)
    RecordedGraph.made = 0


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5, bias=False)  # before a norm its gradient is rounding alone
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x, scale=1.0):
        return self.last(torch.relu(self.norm(self.first(x)))) * scale


def adam(params, **options):
    return torch.optim.Adam(params, lr=0.01, fused=True, **options)


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)


def batch(size=BATCH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, 6, generator=generator),
        torch.randint(3, (size,), generator=generator),
    )


def step_over(model, optimizer, example=None, **options):
    """`capture_step` where the device is no hindrance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(capture, "refusal_of", capture.parts_refusal)
        return fm.capture_step(
            model, nn.CrossEntropyLoss(), optimizer, example or batch(), **options
        )


class Pair:
    """The same model and optimizer twice: stepped eagerly, and captured."""

    def __init__(self, make=adam, net=Net, scaler=None, **options) -> None:
        """`scaler` makes one for each."""
        self.plain = net()
        self.model = copy.deepcopy(self.plain)
        self.plain_optimizer = make(self.plain.parameters())
        self.optimizer = make(self.model.parameters())
        self.scalers = [None if scaler is None else scaler() for _ in range(2)]
        self.step = step_over(self.model, self.optimizer, scaler=self.scalers[0], **options)
        self.eager = capture.eager_step(
            self.plain, nn.CrossEntropyLoss(), self.plain_optimizer, self.scalers[1]
        )

    def both(self, inputs, targets):
        """One step of either, on the same batch; everything must agree."""
        found, expected = self.step(inputs, targets), self.eager(inputs, targets)
        self.agree(found, expected)
        for a, b in zip(self.model.parameters(), self.plain.parameters(), strict=True):
            self.agree(a, b)
            if b.requires_grad:
                assert (a.grad is None) == (b.grad is None)
                self.agree(a.grad, b.grad)
            states = self.optimizer.state.get(a, {}), self.plain_optimizer.state.get(b, {})
            assert states[0].keys() == states[1].keys()
            for key, value in states[1].items():
                self.agree(states[0][key], value)
        for a, b in zip(self.model.buffers(), self.plain.buffers(), strict=True):
            self.agree(a, b)
        if self.scalers[0] is not None:
            assert self.scalers[0].state_dict() == self.scalers[1].state_dict()
        return found

    def agree(self, found, expected):
        """Under a scaler gradients may be infinite."""
        torch.testing.assert_close(found, expected, equal_nan=self.scalers[0] is not None)

    def overflow(self, seed=0):
        """A step of either whose gradients are not finite."""
        inputs, targets = batch(seed=seed)
        inputs[0, 0] = torch.inf
        self.both(inputs, targets)
        assert not self.model.last.weight.grad.isfinite().all()
        for model in (self.model, self.plain):  # they went through the statistics too
            model.norm.reset_running_stats()

    def warm(self, steps=WARM_STEPS):
        for index in range(steps):
            self.both(*batch(seed=index))
