"""fm.capture_step with a GradScaler and with our optimizers: captured, they do what the uncaptured loop does.

Without a GPU a `RecordedGraph` stands for the CUDA graph, and our optimizers' CUDA kernels are emulated;
tests/gpu runs the same over the real ones.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.captured_steps import (
    BATCH,
    Net,
    Pair,
    adam,
    batch,
    sgd,
    step_over,
    use_recorded_graphs,
)
from support.recorded_graph import RecordedGraph
from torch import nn

import fastmodel as fm
from fastmodel import capture, env
from fastmodel.capture import WARM_STEPS
from fastmodel.ops import dispatch

SCALERS = {"torch": torch.amp.GradScaler, "fastmodel": fm.optim.GradScaler}
EITHER_SCALER = pytest.mark.parametrize("kind", SCALERS.values(), ids=SCALERS.keys())
OURS = {
    "adamw": lambda params: fm.optim.AdamW(params, lr=0.01),
    "adamw-clip": lambda params: fm.optim.AdamW(params, lr=0.01, max_grad_norm=0.1),
    "sgd": lambda params: fm.optim.SGD(params, lr=0.1),
    "sgd-momentum-clip": lambda params: fm.optim.SGD(
        params, lr=0.1, momentum=0.9, dampening=0.5, max_grad_norm=0.1
    ),
}
"""Stepped by our kernels, under `kernels`."""


@pytest.fixture(autouse=True)
def recorded_graphs(monkeypatch):
    use_recorded_graphs(monkeypatch)


@pytest.fixture
def kernels(monkeypatch):
    """Emulates the optimizers' CUDA kernels."""
    monkeypatch.setenv("FASTMODEL_CUDA_EMULATE", "1")
    if env.cuda_missing() is not None:
        pytest.skip(env.cuda_missing())
    with fm.use_backend("cuda"):
        yield
    # The choice of kernels is remembered, and differs outside.
    dispatch._candidates.cache_clear()


def scaler_of(kind, **options):
    return lambda: kind("cpu", **{"init_scale": 64.0, "growth_interval": 3, **options})


class TestGradScaler:
    """What the uncaptured loop does, with either scaler: growth, steps left out, unscaled gradients."""

    def run(self, pair):
        """Through growth and infinities, first ones and in replays, and short batches; the scales met."""
        scales = []
        for index in range(16):
            if index in (6, 7, 12):
                before = copy.deepcopy(pair.model.state_dict())
                pair.overflow(index)
                assert torch.equal(before["last.weight"], pair.model.last.weight)
            else:
                pair.both(*batch(3 if index in (8, 15) else BATCH, seed=index))
            scales.append(pair.scalers[0].get_scale())
        return scales

    def check(self, pair):
        scales = self.run(pair)
        pair.both(*batch())
        # Grown after 3 and 6 steps, halved three times, grown after 3 steps between them and behind them.
        assert scales == [64.0] * 2 + [128.0] * 3 + [256.0, 128.0] + [64.0] * 3 + [128.0] + [
            128.0,
            64.0,
            64.0,
            64.0,
            128.0,
        ]
        assert RecordedGraph.made == 1 and pair.step.reason is None
        assert pair.step.eager_steps == WARM_STEPS + 2

    @EITHER_SCALER
    @pytest.mark.parametrize("make", [adam, sgd])
    def test_pytorchs_optimizers(self, make, kind):
        self.check(Pair(make, scaler=scaler_of(kind)))

    @EITHER_SCALER
    @pytest.mark.parametrize("name", OURS)
    def test_ours(self, name, kind, kernels):
        pair = Pair(OURS[name], scaler=scaler_of(kind))
        self.check(pair)
        names = pair.step._graph.names
        op = "sgd" if "sgd" in name else "adam"
        is_ours, clips = kind is fm.optim.GradScaler, "clip" in name
        assert names.count(f"{op}_step_cuda") == 1
        assert names.count("grad_clip_cuda") == clips
        # One read for the infinities and the norm, where the scaler is ours.
        assert names.count("grad_square_sum_cuda") == (is_ours or clips)
        checks = [n for n in names if "non_finite_check" in n]
        assert len(checks) == (not is_ours)

    @EITHER_SCALER
    def test_gradients_are_left_unscaled_and_unclipped(self, kind, kernels):
        """As of a step without either."""
        pair = Pair(OURS["adamw-clip"], scaler=scaler_of(kind))
        pair.warm(WARM_STEPS + 1)
        twin = copy.deepcopy(pair.model)
        inputs, targets = batch(seed=9)
        pair.both(inputs, targets)
        nn.CrossEntropyLoss()(twin(inputs), targets).backward()
        grads = [param.grad for param in twin.parameters()]
        for param, grad in zip(pair.model.parameters(), grads, strict=True):
            torch.testing.assert_close(param.grad, grad)
        assert nn.utils.get_total_norm(grads) > 0.1
        assert pair.step.reason is None

    @EITHER_SCALER
    @pytest.mark.parametrize("name", OURS)
    def test_first_steps_that_are_left_out_do_not_count_for_the_warm_up(self, name, kind, kernels):
        """A scale begins too high; what a momentum has not been through is not recorded."""
        pair = Pair(OURS[name], scaler=scaler_of(kind))
        for index in range(WARM_STEPS + 1):
            pair.overflow(index)
        assert pair.step.reason == f"warming up: step 1 of {WARM_STEPS} before the capture"
        pair.warm(WARM_STEPS)
        assert RecordedGraph.made == 0
        pair.warm(3)
        assert RecordedGraph.made == 1 and pair.step.reason is None

    @EITHER_SCALER
    def test_the_scale_is_set_by_hand(self, kind):
        pair = Pair(scaler=scaler_of(kind))
        pair.warm(WARM_STEPS + 1)
        for scaler in pair.scalers:
            scaler.update(8.0)
        pair.both(*batch())
        assert pair.scalers[0].get_scale() == 8.0
        assert RecordedGraph.made == 1 and pair.step.reason is None

    @EITHER_SCALER
    def test_an_option_of_its_own_is_captured_anew(self, kind):
        """As one that is loaded brings along."""
        pair = Pair(scaler=scaler_of(kind, growth_interval=100))
        pair.warm(WARM_STEPS + 1)
        saved = scaler_of(kind, growth_interval=2, growth_factor=4.0, backoff_factor=0.25)()
        for made, option in enumerate(({"growth_interval": 2}, {"growth_factor": 4.0}), 2):
            saved = {**pair.scalers[1].state_dict(), **option}
            for scaler in pair.scalers:
                scaler.load_state_dict(saved)
            pair.both(*batch())
            assert "warming up" in pair.step.reason
            pair.warm(WARM_STEPS + 3)
            assert RecordedGraph.made == made and pair.step.reason is None
        for scaler in pair.scalers:
            scaler.set_backoff_factor(0.25)
        pair.warm(WARM_STEPS + 1)
        before = pair.scalers[0].get_scale()
        pair.overflow()
        assert pair.scalers[0].get_scale() == before / 4 and pair.step.reason is None

    @EITHER_SCALER
    def test_a_step_that_fails_in_the_capture_leaves_no_scale_behind(self, kind):
        """Or the next one would be scaled by it too."""
        pair, norms = Pair(scaler=scaler_of(kind)), []
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            weight = optimizer.param_groups[0]["params"][0]
            optimizer.register_step_pre_hook(
                lambda *_, weight=weight: norms.append(weight.grad.norm().item())
            )
        pair.warm(WARM_STEPS + 3)
        assert pair.step.reason.startswith("the step cannot be captured")
        assert norms[::2] == norms[1::2]

    @EITHER_SCALER
    def test_a_step_that_raises_leaves_nothing_on_the_optimizer(self, kind):
        """Or one without a scaler would be scaled, and left out, by it."""
        model = Net()
        optimizer, scaler = adam(model.parameters()), kind("cpu")
        seen = []

        def hook(optimizer, *_):
            seen.append({"grad_scale", "found_inf"} & vars(optimizer).keys())
            raise ZeroDivisionError

        optimizer.register_step_pre_hook(hook)
        step = capture.eager_step(model, nn.CrossEntropyLoss(), optimizer, scaler)
        with pytest.raises(ZeroDivisionError):
            step(*batch())
        assert seen == [{"grad_scale", "found_inf"}]
        assert not seen[0] & vars(optimizer).keys()

    def test_one_that_is_off(self):
        pair = Pair(scaler=scaler_of(fm.optim.GradScaler, enabled=False))
        pair.warm(WARM_STEPS + 2)
        assert RecordedGraph.made == 1 and pair.step.reason is None


@pytest.mark.parametrize("name", OURS)
def test_our_optimizers_without_a_scaler(name, kernels):
    pair = Pair(OURS[name])
    pair.warm(WARM_STEPS + 2)
    for optimizer in (pair.optimizer, pair.plain_optimizer):
        optimizer.param_groups[0]["lr"] = 0.2
    pair.both(*batch(3))
    pair.warm(2)
    assert RecordedGraph.made == 1 and pair.step.reason is None


def test_the_norm_that_clips_is_an_option_too(kernels):
    pair = Pair(OURS["adamw-clip"])
    pair.warm(WARM_STEPS + 1)
    for optimizer in (pair.optimizer, pair.plain_optimizer):
        optimizer.max_grad_norm = 0.01
    pair.both(*batch())
    assert "warming up" in pair.step.reason
    pair.warm(WARM_STEPS)
    assert RecordedGraph.made == 2 and pair.step.reason is None


@EITHER_SCALER
def test_a_scaler_needs_an_optimizer_that_takes_the_scale(kind):
    model = Net()
    scaler = kind("cpu")
    found = capture.parts_refusal(model, torch.optim.Adam(model.parameters()), scaler)
    assert "waits for the device" in found
    step = step_over(model, torch.optim.Adam(model.parameters()), scaler=scaler)
    assert step.reason == found
    assert capture.parts_refusal(model, adam(model.parameters()), scaler) is None
    assert capture.parts_refusal(model, fm.optim.SGD(model.parameters()), scaler) is None
    off = kind("cpu", enabled=False)
    assert capture.parts_refusal(model, torch.optim.Adam(model.parameters()), off) is None
