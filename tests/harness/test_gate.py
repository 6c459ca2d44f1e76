"""The gate passes what is right and fails each way of being wrong."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness import gate
from fastmodel.harness.workloads import default_arms


@pytest.fixture
def arms(blobs, stand_ins):
    found = {arm.name: arm for arm in default_arms(blobs)}
    return found["eager"], found["fastmodel"]


def run(blobs, options, arms):
    return gate.check(blobs, options, *arms)


def failed(result) -> set[str]:
    return {check.name for check in result.checks if not check.passed}


def test_the_same_model_passes(blobs, options, arms):
    result = run(blobs, options, arms)
    assert result.passed
    names = {check.name for check in result.checks}
    assert {"output, evaluation", "loss, training", "gradient of 0.weight"} <= names
    assert "5.bias after 3 steps" in names
    # 2 modes x (output, loss), 4 gradients, 4 stepped parameters.
    assert len(names) == 12


def test_bounds_are_far_below_the_values(blobs, options, arms):
    for check in run(blobs, options, arms).checks:
        assert 0 < check.bound < 1e-3
        assert check.error < 1e-5


class WrongConv(nn.Conv2d):
    """Half a permille too large in its result: a bug of the size that no accuracy figure shows."""

    def forward(self, x):
        return super().forward(x) * 1.0005


class NoBiasGradient(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias.detach())


class NegatedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class WrongSign(nn.Flatten):
    def forward(self, x):
        return NegatedGradient.apply(super().forward(x))


class NanInTraining(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * (float("nan") if self.training else 1.0)


def swap_in(monkeypatch, index: int, kind: type[nn.Module]) -> None:
    def optimize(model, inputs, **options):
        model[index].__class__ = kind
        return model

    monkeypatch.setattr(fm, "optimize", optimize)


@pytest.mark.parametrize(
    ("index", "kind", "seen"),
    [
        (0, WrongConv, {"output, evaluation", "output, training", "gradient of 0.weight"}),
        (5, NoBiasGradient, {"gradient of 5.bias"}),
        (3, WrongSign, {"gradient of 0.weight", "gradient of 0.bias"}),
        (1, NanInTraining, {"output, training", "loss, training"}),
    ],
    ids=["slightly wrong", "no bias gradient", "wrong sign", "NaN in training"],
)
def test_wrong_modules_fail(blobs, options, arms, monkeypatch, index, kind, seen):
    swap_in(monkeypatch, index, kind)
    result = run(blobs, options, arms)
    assert not result.passed
    assert seen <= failed(result)


def test_a_missing_gradient_is_named(blobs, options, arms, monkeypatch):
    swap_in(monkeypatch, 5, NoBiasGradient)
    result = run(blobs, options, arms)
    message = gate.failures(result)
    assert "gradient of 5.bias" in message and "\n" not in message


class NoStep(torch.optim.Adam):
    def step(self, closure=None):
        return None


class WrongBeta2(torch.optim.Adam):
    def __init__(self, parameters, **options):
        super().__init__(parameters, **(options | {"betas": (0.9, 0.99)}))


class NoBiasCorrection(torch.optim.Adam):
    def step(self, closure=None):
        super().step(closure)
        for state in self.state.values():
            state["step"] += 1000


@pytest.mark.parametrize("kind", [NoStep, WrongBeta2, NoBiasCorrection])
def test_wrong_optimizers_fail(blobs, options, arms, monkeypatch, kind):
    monkeypatch.setattr(fm.optim, "Adam", kind)
    result = run(blobs, options, arms)
    assert failed(result) == {
        f"{name} after 3 steps" for name in ("0.weight", "0.bias", "5.weight", "5.bias")
    }


def test_other_parameter_names_fail(blobs, options, arms, monkeypatch):
    monkeypatch.setattr(fm, "optimize", lambda model, inputs, **_: nn.Sequential(model))
    result = run(blobs, options, arms)
    assert "gradient of 0.weight" in failed(result)
    assert "unexpected gradient of 0.0.weight" in failed(result)


def test_another_output_shape_fails(blobs, options, arms, monkeypatch):
    class Wider(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return torch.cat([self.inner(x), self.inner(x)], dim=1)

    monkeypatch.setattr(fm, "optimize", lambda model, inputs, **_: Wider(model))
    checks = {check.name: check for check in run(blobs, options, arms).checks}
    assert not checks["output, evaluation"].passed
    assert checks["output, evaluation"].error is None


def test_random_rounding_noise_of_the_size_of_eps_passes(blobs, options, arms, monkeypatch):
    class Noisy(nn.Conv2d):
        def forward(self, x):
            y = super().forward(x)
            noise = torch.rand(y.shape, generator=torch.Generator().manual_seed(1)) - 0.5
            return y * (1 + 1.2e-7 * noise)

    swap_in(monkeypatch, 0, Noisy)
    assert run(blobs, options, arms).passed


def test_a_model_that_always_sits_on_a_tie_is_judged_by_its_conditioning(blobs, options, arms):
    # All weights of the convolution are equal, so whole windows are within rounding of a tie.
    blobs.model = lambda base=blobs.model: equal_weights(base())
    assert run(blobs, options, arms).passed


def equal_weights(model: nn.Module) -> nn.Module:
    nn.init.constant_(model[0].weight, 0.1)
    nn.init.zeros_(model[0].bias)
    return model


def test_batch_norms_buffers_are_compared(blobs, options, arms, monkeypatch):
    def model():
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))

    class OtherMomentum(nn.BatchNorm2d):
        def forward(self, x):
            self.momentum = 0.2
            return super().forward(x)

    blobs.model = model
    assert run(blobs, options, arms).passed
    swap_in(monkeypatch, 1, OtherMomentum)
    assert failed(run(blobs, options, arms)) == {"buffer 1.running_mean", "buffer 1.running_var"}


def test_the_arms_own_models_are_left_alone(blobs, options, arms):
    run(blobs, options, arms)
    loop = arms[0].build(blobs, options)
    assert loop.model[4].p == 0.2
    assert dataclasses.is_dataclass(loop)


def test_a_bound_is_four_times_the_worse_of_plain_error_and_conditioning_above_the_floor():
    bounds = gate._Bounds(floor=1e-6, conditioning={"a": 3e-5})
    assert bounds.of("a", 1e-5) == pytest.approx(4 * 3e-5 + 1e-6)
    assert bounds.of("a", 5e-5) == pytest.approx(4 * 5e-5 + 1e-6)
    assert bounds.of("of the optimizer", 0.0) == pytest.approx(1e-6)
