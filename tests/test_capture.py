"""fm.capture_step: a captured step computes what the eager step does, whatever changes between steps.

Without a GPU a `RecordedGraph` stands for the CUDA graph; tests/gpu runs the same over the real one.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

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
from fastmodel import capture
from fastmodel.capture import WARM_STEPS, CapturedStep


@pytest.fixture(autouse=True)
def recorded_graphs(monkeypatch):
    use_recorded_graphs(monkeypatch)


@pytest.mark.parametrize("make", [adam, sgd])
def test_steps_are_those_of_eager_mode(make):
    pair = Pair(make)
    before = pair.model.last.weight.clone()
    pair.warm(8)
    assert pair.step.replayed_steps == 8 - WARM_STEPS and pair.step.eager_steps == WARM_STEPS
    assert RecordedGraph.made == 1 and pair.step.reason is None
    assert pair.step._graph.warmed == WARM_STEPS
    assert (pair.model.last.weight - before).abs().min() > 0
    # An option that PyTorch's SGD has not is none that a state_dict of it should hold.
    options = pair.optimizer.param_groups[0].keys()
    assert options == pair.plain_optimizer.param_groups[0].keys()


def test_a_loss_has_memory_of_its_own():
    pair = Pair()
    assert not pair.both(*batch()).requires_grad
    pair.warm(WARM_STEPS)
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


def test_gradients_of_an_eager_step_alone_go():
    class Other(Net):
        """Short batches have a layer of their own."""

        def __init__(self):
            super().__init__()
            self.short = nn.Linear(6, 6)

        def forward(self, x):
            return super().forward(x if x.shape[0] == BATCH else self.short(x))

    pair = Pair(net=Other)
    pair.warm(WARM_STEPS + 1)
    pair.both(*batch(3))
    assert pair.model.short.weight.grad is not None
    pair.warm(1)
    assert pair.step.reason is None and pair.model.short.weight.grad is None


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


def test_a_scheduler_that_comes_late_changes_no_more_than_rates():
    pair = Pair()
    pair.warm(WARM_STEPS + 1)
    schedulers = [
        torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for optimizer in (pair.optimizer, pair.plain_optimizer)
    ]
    pair.warm(1)
    for scheduler in schedulers:
        scheduler.step()  # without a warning that no step has been
    pair.warm(1)
    assert RecordedGraph.made == 1 and pair.step.reason is None


def test_a_learning_rate_set_by_hand():
    pair = Pair()
    for index, lr in enumerate((0.01, 0.01, 0.02, 0.3, 0.3, 0.0, 0.05, 0.3)):
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


class TestRates:
    """The scalars that graphs read, on another device than this one's."""

    DEVICE = torch.device("meta")

    def rates(self, *given):
        weights = [nn.Parameter(torch.empty(1, device=self.DEVICE)) for _ in given]
        groups = [{"params": [w], "lr": lr} for w, lr in zip(weights, given, strict=True)]
        optimizer = torch.optim.SGD(groups)
        return optimizer.param_groups, capture._Rates(optimizer, self.DEVICE)

    def test_are_on_the_device_and_of_the_groups_meanwhile(self):
        given = (0.1, torch.tensor(0.1), torch.tensor(0.1, device=self.DEVICE))
        groups, rates = self.rates(*given)
        with rates.static():
            found = [group["lr"] for group in groups]
            assert all(lr.device == self.DEVICE and lr.dim() == 0 for lr in found)
            assert found[1] is not given[1] and found[2] is given[2]
        assert all(group["lr"] is lr for group, lr in zip(groups, given, strict=True))

    def test_are_written_where_they_changed(self):
        groups, rates = self.rates(0.1, 0.1)
        with rates.static():
            found = [group["lr"] for group in groups]
        before = [lr._version for lr in found]
        groups[1]["lr"] = 0.2
        for _ in range(2):
            rates.follow()
        assert [lr._version for lr in found] == [before[0], before[1] + 1]


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

    def test_an_option_that_holds_tensors(self, pair):
        """Compared by which ones they are."""
        weights = torch.ones(2), torch.ones(2)
        pair.optimizer.param_groups[0]["weights"] = [weights[0]]
        self.settles(pair)
        pair.optimizer.param_groups[0]["weights"] = [weights[0]]
        pair.warm(1)
        assert pair.step.reason is None
        pair.optimizer.param_groups[0]["weights"] = [weights[1]]
        pair.both(*batch())
        assert "warming up" in pair.step.reason

    def test_a_parameter_that_is_stepped_no_more(self, pair):
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            optimizer.param_groups[0]["params"].pop()
        for model in (pair.model, pair.plain):
            model.last.bias.requires_grad_(False).grad = None
        kept = pair.model.last.bias.clone()
        self.settles(pair)
        assert torch.equal(kept, pair.model.last.bias)

    def test_a_parameter_that_is_stepped_in_place_of_another(self, pair):
        for model, optimizer in (
            (pair.model, pair.optimizer),
            (pair.plain, pair.plain_optimizer),
        ):
            params = optimizer.param_groups[0]["params"]
            assert params[-1] is model.last.bias
            params[-1] = nn.Parameter(torch.zeros(3))
            params[-1].grad = None
            model.last.bias.grad = None
        kept = pair.model.last.bias.clone()
        pair.step(*batch())
        assert torch.equal(kept, pair.model.last.bias) and "warming up" in pair.step.reason

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
        assert not saved["param_groups"][0]["capturable"]
        for optimizer in (pair.optimizer, pair.plain_optimizer):
            optimizer.load_state_dict(copy.deepcopy(saved))
        self.settles(pair)
        assert pair.optimizer.param_groups[0]["capturable"]

    def test_a_state_that_lies_where_the_captured_one_did(self, pair):
        captured, others = id(pair.optimizer.state), []
        pair.optimizer.load_state_dict(copy.deepcopy(pair.optimizer.state_dict()))
        for _ in range(10_000):
            others.append(copy.copy(pair.optimizer.state))
            if id(others[-1]) == captured:
                pair.optimizer.state = others[-1]
        self.settles(pair)

    def test_another_backend_that_is_asked_for(self, pair):
        with fm.use_backend("reference"):
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


def test_autocast():
    seen = []
    model = nn.Linear(6, 3)
    model.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    step = step_over(model, sgd(model.parameters()), autocast=torch.bfloat16)
    for index in range(WARM_STEPS + 2):
        step(*batch(seed=index))
    assert set(seen) == {torch.bfloat16} and len(seen) == WARM_STEPS + 1  # a replay calls no Python


def test_autocast_around_the_call_is_obeyed_and_not_captured():
    pair, seen = Pair(), []
    pair.model.last.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    pair.warm(WARM_STEPS + 1)
    with torch.autocast("cpu", torch.bfloat16):
        pair.both(*batch())
    assert "pass autocast=" in pair.step.reason and seen[-1] == torch.bfloat16
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
            counts[id(self)] = counts.get(id(self), 0) + 1
            out = super().forward(x)
            return out * (2.0 if out.sum().item() > 0 else 1.0)

    counts = {}
    pair = Pair(net=Reads)
    pair.warm(WARM_STEPS + 3)
    assert counts[id(pair.model)] == counts[id(pair.plain)] + 1  # recorded in vain once
    assert pair.step.reason == (
        "the step cannot be captured: operation not permitted when stream is capturing"
    )
    assert pair.step.replayed_steps == 0 and RecordedGraph.made == 0


def test_a_backend_that_was_asked_for_is_not_replaced():
    """Nor are steps eager from then on."""
    model, is_served = Net(), True
    eager = capture.eager_step(model, nn.CrossEntropyLoss(), adam(model.parameters()))

    def run(inputs, targets):
        if not is_served:
            raise fm.errors.BackendError("linear_relu: backend 'cuda' cannot serve")
        return eager(inputs, targets)

    step = CapturedStep(run, model, adam(model.parameters()), batch(), RecordedGraph)
    for _ in range(WARM_STEPS):
        step(*batch())
    is_served = False
    with pytest.raises(fm.errors.BackendError):
        step(*batch())
    is_served = True
    step._graph = RecordedGraph()
    step(*batch())
    assert step.reason is None and step.replayed_steps == 1


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


class TestDevices:
    """Over a model on a device that is not the batch's."""

    @pytest.fixture(autouse=True)
    def no_autocast(self, monkeypatch):
        """Which the stand-in for a device has not."""
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)

    def step(self, refusal=None):
        model = nn.Linear(6, 3, device="meta")
        optimizer, given = sgd(model.parameters()), []

        def run(inputs, targets):
            given.append((inputs["x"].device.type, targets))
            return torch.zeros((), device="meta")

        example = {"x": torch.zeros(2, 6)}, "targets"
        return capture.captured(run, model, optimizer, example, refusal), given

    def test_batches_are_brought_to_the_model(self):
        step, given = self.step()
        step({"x": torch.zeros(1, 6)}, "targets")
        for _ in range(WARM_STEPS + 2):
            assert step({"x": torch.zeros(2, 6)}, "targets").device.type == "meta"
        # An eager one, the warm-up and the capture.
        assert given == [("meta", "targets")] * (WARM_STEPS + 2)
        assert step.reason is None and step.replayed_steps == 2

    def test_a_step_that_is_refused_takes_them_as_they_are(self):
        step, given = self.step("none today")
        step({"x": torch.zeros(2, 6)}, "targets")
        assert given == [("cpu", "targets")] and step.reason == "none today"


@pytest.mark.parametrize(
    ("params", "buffers", "words"),
    [
        (["cuda:0", "cuda:0"], ["cuda:0"], None),
        (["cuda:0", "cuda:1"], [], "lies on cuda:0, cuda:1;"),
        (["cuda:0"], ["cpu"], "lies on cpu, cuda:0;"),
        (["meta"], [], "lies on meta;"),
    ],
)
def test_where_a_model_may_lie(params, buffers, words, monkeypatch):
    def on(devices):
        return lambda: (SimpleNamespace(device=torch.device(device)) for device in devices)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model = SimpleNamespace(parameters=on(params), buffers=on(buffers))
    optimizer = torch.optim.Adam(Net().parameters())
    found = capture.refusal_of(model, optimizer)
    assert found is None if words is None else words in found
    if words is None:
        scaler = torch.amp.GradScaler("cpu")
        assert "waits for the device" in capture.refusal_of(model, optimizer, scaler)


def test_a_model_under_ddp_is_refused():
    model = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    assert "DistributedDataParallel" in capture.parts_refusal(model, adam(Net().parameters()))


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
        (lambda p: torch.optim.Adam(p, differentiable=True), "keeps a graph of its own"),
        (lambda p: torch.optim.SGD(p, lr=0.1), "read the learning rate on the host"),
        (lambda p: torch.optim.SGD(p, lr=0.1, foreach=True), "read the learning rate on the host"),
        (lambda p: torch.optim.SGD(p, lr=0.1, foreach=False), "read the learning rate on the host"),
        (lambda p: torch.optim.SGD(p, lr=0.1, fused=True), None),
        (lambda p: fm.optim.SGD(p, lr=0.1, foreach=True), "read the learning rate on the host"),
        (lambda p: fm.optim.SGD(p, lr=0.1, fused=False), "read the learning rate on the host"),
        (lambda p: fm.optim.SGD(p, lr=0.1, fused=True), None),
        (lambda p: fm.optim.SGD(p, lr=0.1), None),
        (lambda p: torch.optim.AdamW(p), None),
        (lambda p: fm.optim.AdamW(p), None),
    ],
)
def test_which_optimizers_can_be_captured(make, words):
    model = Net()
    found = capture.parts_refusal(model, make(model.parameters()))
    assert found is None if words is None else words in found


def test_a_step_that_reads_its_rate_on_the_host_is_not_captured():
    """What `parts_refusal` says of PyTorch's foreach SGD."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
    eager = capture.eager_step(model, nn.CrossEntropyLoss(), optimizer)
    step = CapturedStep(eager, model, optimizer, batch(), RecordedGraph)
    for _ in range(WARM_STEPS + 1):
        step(*batch())
    assert "operation not permitted" in step.reason


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


def test_a_loss_with_parameters_of_its_own():
    """Their gradients come back too, and the graph does not outlive them."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, output, targets):
            return nn.functional.cross_entropy(self.linear(output), targets)

    runs = []
    for is_captured in (True, False):
        torch.manual_seed(0)
        model, head = Net(), Head()
        optimizer = adam([*model.parameters(), *head.parameters()])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(capture, "refusal_of", capture.parts_refusal)
            step = fm.capture_step(model, head, optimizer, batch())
        runs.append((head, step if is_captured else step._run))
    (head, step), (plain, eager) = runs
    for number in range(WARM_STEPS + 3):
        head.zero_grad()
        step(*batch(seed=number)), eager(*batch(seed=number))
        for a, b in zip(head.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(a, b)
            torch.testing.assert_close(a.grad, b.grad)
    assert step.replayed_steps == 3
    head.linear.weight.data = head.linear.weight.detach().clone()
    step(*batch())
    assert "warming up" in step.reason
