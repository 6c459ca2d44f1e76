"""fm.capture_step: a captured step computes what the eager step does, whatever changes between steps.

Without a GPU a `RecordedGraph` stands for the CUDA graph; tests/gpu runs the same over the real one.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.recorded_graph import RecordedGraph
from torch import nn

import fastmodel as fm
from fastmodel import capture
from fastmodel.capture import WARM_STEPS, CapturedStep

BATCH = 8


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


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    RecordedGraph.made = 0


def batch(size=BATCH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(size, 6, generator=generator),
        torch.randint(3, (size,), generator=generator),
    )


def step_over(model, optimizer, example=None, scaler=None, autocast=None):
    """As `capture_step` makes it, over recorded graphs."""
    run = capture.eager_step(model, nn.CrossEntropyLoss(), optimizer, scaler, autocast)
    return CapturedStep(run, model, optimizer, example or batch(), RecordedGraph)


class Pair:
    """The same model and optimizer twice: stepped eagerly, and captured."""

    def __init__(self, make=adam, net=Net, **options) -> None:
        self.plain = net()
        self.model = copy.deepcopy(self.plain)
        self.plain_optimizer = make(self.plain.parameters())
        self.optimizer = make(self.model.parameters())
        self.step = step_over(self.model, self.optimizer, **options)
        self.eager = capture.eager_step(self.plain, nn.CrossEntropyLoss(), self.plain_optimizer)

    def both(self, inputs, targets):
        """One step of either, on the same batch; everything must agree."""
        found, expected = self.step(inputs, targets), self.eager(inputs, targets)
        torch.testing.assert_close(found, expected)
        self.agree()
        return found

    def agree(self):
        tensors = zip(
            (*self.model.parameters(), *self.model.buffers()),
            (*self.plain.parameters(), *self.plain.buffers()),
            strict=True,
        )
        for a, b in tensors:
            torch.testing.assert_close(a, b)
            if b.requires_grad:
                assert (a.grad is None) == (b.grad is None)
                torch.testing.assert_close(a.grad, b.grad)

    def warm(self, steps=WARM_STEPS):
        for index in range(steps):
            self.both(*batch(seed=index))


@pytest.mark.parametrize("make", [adam, sgd])
def test_steps_are_those_of_eager_mode(make):
    pair = Pair(make)
    before = pair.model.last.weight.clone()
    pair.warm(8)
    assert pair.step.replayed_steps == 8 - WARM_STEPS and pair.step.eager_steps == WARM_STEPS
    assert RecordedGraph.made == 1 and pair.step.reason is None
    assert (pair.model.last.weight - before).abs().min() > 0


def test_a_loss_has_memory_of_its_own():
    pair = Pair()
    pair.warm(WARM_STEPS + 1)
    first = pair.step(*batch(seed=1))
    kept = first.clone()
    second = pair.step(*batch(seed=2))
    assert torch.equal(first, kept) and not torch.equal(first, second)
    assert not first.requires_grad


def test_the_example_batch_is_only_looked_at():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    inputs, targets = batch()
    step_over(model, adam(model.parameters()), (inputs, targets))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(inputs, batch()[0]) and torch.equal(targets, batch()[1])


def test_a_short_batch_runs_eagerly_and_the_graph_goes_on():
    pair = Pair()
    pair.warm(5)
    pair.both(*batch(3))
    assert "(3, 6) float32 instead of (8, 6) float32" in pair.step.reason
    pair.warm(2)
    assert pair.step.reason is None and RecordedGraph.made == 1
    assert pair.step.eager_steps == WARM_STEPS + 1


def test_a_short_batch_first():
    pair = Pair()
    pair.both(*batch(3))
    pair.warm(5)
    assert pair.step.reason is None


def test_gradients_reset_by_hand_come_back():
    pair = Pair()
    pair.warm(5)
    pair.optimizer.zero_grad(set_to_none=True)
    pair.warm(1)


@pytest.mark.parametrize("make", [adam, sgd])
def test_a_scheduler_moves_the_learning_rate(make):
    pair = Pair(make)
    schedulers = [
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for optimizer in (pair.optimizer, pair.plain_optimizer)
    ]
    for index in range(8):
        pair.both(*batch(seed=index))
        for scheduler in schedulers:
            scheduler.step()
    assert isinstance(pair.optimizer.param_groups[0]["lr"], float)
    assert pair.step.replayed_steps == 8 - WARM_STEPS and RecordedGraph.made == 1


def test_a_learning_rate_set_by_hand():
    pair = Pair()
    for index, lr in enumerate((0.01, 0.01, 0.02, 0.3, 0.3, 0.0, 0.05)):
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            optimizer.param_groups[0]["lr"] = lr
        pair.both(*batch(seed=index))
    assert RecordedGraph.made == 1


def test_a_learning_rate_that_is_a_tensor():
    pair = Pair()
    rates = [torch.tensor(0.01), torch.tensor(0.01)]
    for optimizer, lr in zip((pair.optimizer, pair.plain_optimizer), rates, strict=True):
        optimizer.param_groups[0]["lr"] = lr
    pair.warm(4)
    for lr in rates:
        lr.fill_(0.2)
    pair.warm(1)
    for optimizer in (pair.optimizer, pair.plain_optimizer):
        optimizer.param_groups[0]["lr"] = torch.tensor(0.4)
    pair.warm(2)
    assert RecordedGraph.made == 1


@pytest.mark.parametrize("sets", ["number", "in place"])
def test_a_step_that_sets_its_own_rate_stays_eager(sets):
    model = Net()
    optimizer = adam(model.parameters())
    eager = capture.eager_step(model, nn.CrossEntropyLoss(), optimizer)

    def run(*given):
        loss, group = eager(*given), optimizer.param_groups[0]
        if sets == "number" or not isinstance(group["lr"], torch.Tensor):
            group["lr"] = group["lr"] * 0.5
        else:
            group["lr"].mul_(0.5)
        return loss

    step = CapturedStep(run, model, optimizer, batch(), RecordedGraph)
    for index in range(WARM_STEPS + 2):
        step(*batch(seed=index))
    assert "sets its learning rate itself" in step.reason and step.replayed_steps == 0


def test_groups_have_rates_of_their_own():
    def make(params):
        params = list(params)
        return torch.optim.Adam(
            [{"params": params[:2], "lr": 0.1}, {"params": params[2:]}], lr=0.01, fused=True
        )

    pair = Pair(make)
    pair.warm(5)
    for optimizer in (pair.optimizer, pair.plain_optimizer):
        optimizer.param_groups[1]["lr"] = 0.2
    pair.warm(2)


class TestWhatIsCapturedAnew:
    """A change that a graph has built in: eager, warm, captured again; right all along."""

    @pytest.fixture
    def pair(self):
        pair = Pair()
        pair.warm(WARM_STEPS + 2)
        return pair

    def settles(self, pair):
        pair.both(*batch(seed=50))
        assert "warming up" in pair.step.reason
        pair.warm(WARM_STEPS + 1)
        assert pair.step.reason is None and RecordedGraph.made == 2

    def test_an_option(self, pair):
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            optimizer.param_groups[0]["betas"] = (0.5, 0.9)
        self.settles(pair)

    def test_a_mode(self, pair):
        for model in (pair.model, pair.plain):
            model.norm.eval()
        self.settles(pair)

    def test_a_frozen_parameter(self, pair):
        for model in (pair.model, pair.plain):
            model.first.weight.requires_grad_(False)
        self.settles(pair)
        assert pair.model.first.weight.grad is None

    def test_a_parameter_that_has_moved(self, pair):
        pair.model.first.weight.data = pair.model.first.weight.data.clone()
        self.settles(pair)

    def test_a_loaded_state(self, pair):
        saved = pair.plain_optimizer.state_dict()
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            optimizer.load_state_dict(copy.deepcopy(saved))
        self.settles(pair)

    def test_a_model_that_is_loaded_is_not(self, pair):
        other = Net().state_dict()
        for model in (pair.model, pair.plain):
            model.load_state_dict(other)
        pair.warm(2)
        assert pair.step.reason is None and RecordedGraph.made == 1

    def test_an_option_that_changes_always_is_served_eagerly(self, pair):
        for index in range(6):
            for optimizer in (pair.optimizer, pair.plain_optimizer):
                optimizer.param_groups[0]["betas"] = (0.5 + 0.01 * index, 0.9)
            pair.both(*batch(seed=index))
        assert RecordedGraph.made == 1 and "warming up" in pair.step.reason


def test_a_grad_scaler_skips_infinite_gradients_and_moves_its_scale():
    model = Net()
    plain = copy.deepcopy(model)
    optimizers = [adam(m.parameters()) for m in (model, plain)]
    scalers = [torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3) for _ in range(2)]
    step = step_over(model, optimizers[0], scaler=scalers[0])
    eager = capture.eager_step(plain, nn.CrossEntropyLoss(), optimizers[1], scalers[1])
    scales = set()
    for index in range(12):
        inputs, targets = batch(seed=index)
        if index in (5, 6):
            inputs[0, 0] = torch.inf
        found, expected = step(inputs, targets), eager(inputs, targets)
        torch.testing.assert_close(found, expected, equal_nan=True)
        assert scalers[0].get_scale() == scalers[1].get_scale()
        scales.add(scalers[0].get_scale())
        for a, b in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)
        if index == 6:
            # The infinities went through the statistics too: start from whole ones.
            for m in (model, plain):
                m.norm.reset_running_stats()
    assert RecordedGraph.made == 1 and step.reason is None
    assert len(scales) > 2


def test_autocast():
    seen = []
    model = nn.Linear(6, 3)
    model.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    step = step_over(model, sgd(model.parameters()), autocast=torch.bfloat16)
    for index in range(WARM_STEPS + 2):
        step(*batch(seed=index))
    assert set(seen) == {torch.bfloat16} and len(seen) == WARM_STEPS + 1  # a replay calls no Python


def test_autocast_around_the_call_is_obeyed_and_not_captured():
    pair = Pair()
    pair.warm(WARM_STEPS + 1)
    with torch.autocast("cpu", torch.bfloat16):
        pair.both(*batch())
    assert "pass autocast=" in pair.step.reason
    pair.warm(1)
    assert pair.step.reason is None and RecordedGraph.made == 1


def test_dropout_draws_anew_in_each_replay():
    model = nn.Sequential(nn.Linear(6, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=True)
    step = step_over(model, optimizer)
    inputs, targets = batch()
    losses = {step(inputs, targets).item() for _ in range(8)}
    assert len(losses) == 8 and step.replayed_steps == 8 - WARM_STEPS


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_models_of_several_arguments(form):
    def given(x, scale):
        return (x, scale) if form == "tuple" else {"x": x, "scale": scale}

    inputs, targets = batch()
    pair = Pair(example=(given(inputs, 2.0), targets))
    for index in range(WARM_STEPS + 2):
        inputs, targets = batch(seed=index)
        pair.both(given(inputs, 2.0), targets)
    pair.both(given(inputs, 3.0), targets)
    assert "3.0 instead of 2.0" in pair.step.reason
    pair.both(given(inputs, 2.0), targets)
    assert pair.step.reason is None


def test_a_batch_of_another_structure():
    pair = Pair()
    pair.warm(4)
    pair.both((batch()[0],), batch()[1])
    assert "another structure" in pair.step.reason


def test_a_step_that_waits_for_the_device_stays_eager():
    class Reads(Net):
        def forward(self, x):
            out = super().forward(x)
            return out * (2.0 if out.sum().item() > 0 else 1.0)

    pair = Pair(net=Reads)
    pair.warm(WARM_STEPS + 3)
    assert pair.step.reason == (
        "the step cannot be captured: operation not permitted when stream is capturing"
    )
    assert pair.step.replayed_steps == 0 and RecordedGraph.made == 0


def test_a_backend_that_was_asked_for_is_not_replaced():
    def refuse(inputs, targets):
        raise fm.errors.BackendError("linear_relu: backend 'cuda' cannot serve")

    model = Net()
    step = CapturedStep(refuse, model, adam(model.parameters()), batch(), RecordedGraph)
    step._signature, step._alike = step._current_signature(), WARM_STEPS
    step._graph = RecordedGraph()
    with pytest.raises(fm.errors.BackendError):
        step(*batch())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_every_step_is_eager():
    pair = Pair()
    loss = nn.CrossEntropyLoss()
    pair.optimizer.param_groups[0]["capturable"] = False
    pair.step = fm.capture_step(pair.model, loss, pair.optimizer, batch())
    assert pair.step.reason == "no CUDA device"
    pair.warm(WARM_STEPS + 2)
    assert pair.step.reason == "no CUDA device" and pair.step.replayed_steps == 0
    assert not pair.optimizer.param_groups[0]["capturable"]


def test_a_model_on_the_cpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = Net()
    step = fm.capture_step(model, nn.CrossEntropyLoss(), adam(model.parameters()), batch())
    assert "the model lies on cpu" in step.reason
    step(*batch())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: torch.optim.LBFGS(p), "LBFGS has no capturable option"),
        (lambda p: torch.optim.SGD(p, lr=0.1, foreach=False), "for-loop reads the learning rate"),
        (lambda p: torch.optim.Adam(p, differentiable=True), "keeps a graph of its own"),
        (lambda p: torch.optim.SGD(p, lr=0.1), None),
        (lambda p: torch.optim.AdamW(p), None),
        (lambda p: fm.optim.AdamW(p), None),
    ],
)
def test_which_optimizers_can_be_captured(make, words):
    model = Net()
    found = capture.parts_refusal(model, make(model.parameters()))
    assert found is None if words is None else words in found


def test_a_scaler_needs_an_optimizer_that_takes_the_scale():
    model = Net()
    scaler = torch.amp.GradScaler("cpu")
    found = capture.parts_refusal(model, torch.optim.Adam(model.parameters()), scaler)
    assert "waits for the device" in found
    assert capture.parts_refusal(model, adam(model.parameters()), scaler) is None
    off = torch.amp.GradScaler("cpu", enabled=False)
    assert capture.parts_refusal(model, torch.optim.Adam(model.parameters()), off) is None


def test_steps_counted_on_the_host_move_to_the_device():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    meta = nn.Parameter(torch.empty(1, 2, device="meta"))
    optimizer.state[meta] = optimizer.state.pop(model.weight)
    optimizer.param_groups[0]["params"][0] = meta
    capture.make_capturable(optimizer)
    assert optimizer.state[meta]["step"].device.type == "meta"
    assert optimizer.state[model.bias]["step"].device.type == "cpu"
    assert optimizer.param_groups[0]["capturable"]


def test_bad_input():
    model = Net()
    optimizer = adam(model.parameters())
    with pytest.raises(fm.errors.InputError, match=r"capture_step: example_batch must be"):
        fm.capture_step(model, nn.CrossEntropyLoss(), optimizer, batch()[0])
    with pytest.raises(fm.errors.InputError, match=r"capture_step: Flatten has no Parameters"):
        fm.capture_step(nn.Flatten(), nn.CrossEntropyLoss(), optimizer, batch())
