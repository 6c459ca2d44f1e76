"""The measured selection. Times are planted here: what is slow sleeps, or the race is a stand-in."""

import json
import time

import pytest
import torch
from support import zoo
from support.planted_times import BARELY, EVEN, FAST, SLOW
from torch import nn

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.optimize import Measurement, levers, measure, measured, trials
from fastmodel.optimize.budget import Budget
from fastmodel.optimize.measure import LEAST_PAIRS, MOST_PAIRS, race, ranking
from fastmodel.timing import Estimate


@pytest.fixture
def x():
    return torch.randn(4, 1, 12, 12)


def swapped(model):
    return {place.site for place in fm.plan_of(model).swaps}


def reason_of(model, site):
    plan = fm.plan_of(model)
    return next(p.reason for p in (*plan.swaps, *plan.left) if p.site == site)


class TestRace:
    def test_a_clear_case_takes_the_fewest_pairs(self):
        found = race(lambda: time.sleep(0.03), lambda: time.sleep(1e-3), Budget(10), 1.02)
        assert LEAST_PAIRS <= found.pairs <= MOST_PAIRS
        assert 1 < found.low <= found.ratio <= found.high

    def test_slower_is_below_one(self):
        found = race(lambda: time.sleep(1e-3), lambda: time.sleep(0.03), Budget(10), 1.02)
        assert found.high < 1

    def test_an_even_one_is_taken_further_and_is_not_certain(self):
        calls = []
        found = race(
            lambda: calls.append(time.sleep(5e-3)), lambda: time.sleep(5e-3), Budget(9), 1.0
        )
        assert found.pairs <= MOST_PAIRS and len(calls) >= found.pairs

    def test_it_goes_on_while_the_gain_lies_within_the_interval(self, monkeypatch):
        found = [(1.0, 0.9, 1.1), (1.0, 1.01, 1.2), (1.1, 1.03, 1.2), (9.0, 8.0, 9.5)]
        estimates = iter([Estimate(*values) for values in found])
        monkeypatch.setattr(measure, "mean_ratio", lambda *_: next(estimates))
        won = race(lambda: None, lambda: None, Budget(60), 1.02)
        assert (won.low, won.pairs) == (1.03, 4 * LEAST_PAIRS)

    def test_the_budget_ends_it(self):
        now = [0.0]
        clock = lambda: now[0]  # noqa: E731

        def run():
            now[0] += 1.0
            time.sleep(1e-3)

        assert race(run, run, Budget(1.0, clock), 1.0) is None
        budget = Budget(60.0, clock)
        found = race(run, run, budget, 1.0)
        assert found is None or found.pairs < MOST_PAIRS
        assert now[0] < 70

    def test_ranking(self):
        arms = {"slow": lambda: time.sleep(6e-3), "fast": lambda: time.sleep(1e-3)}
        assert ranking(arms, Budget(10)) == ["fast", "slow"]


def test_what_wins_is_swapped_with_its_evidence(x, races):
    model = zoo.Functional()
    fused = fm.optimize(model, x)
    plan = fm.plan_of(fused)
    assert swapped(fused) == {"conv1", "conv2", "fc1"}
    assert plan.selection == "measured" and plan.whole == FAST and not plan.reason
    for place in plan.swaps:
        assert place.measurement == FAST and place.verification.passed
        assert place.reason == "wins: 2.00 [1.90, 2.10]"
    torch.testing.assert_close(fused(x), model(x))
    assert "2.000       1.000    2.00 [1.90, 2.10]" in str(plan)
    assert plan.verdict.startswith("the whole step: 3 sites")


@pytest.mark.parametrize("make", [zoo.lenet, zoo.Functional], ids=["sequential", "fx"])
def test_a_kernel_that_is_wrong_by_one_percent_is_rejected(make, x, races, monkeypatch):
    honest = fm.nn.ConvReLUMaxPool2d.forward
    gap = torch.finfo(torch.float32).eps ** 0.5  # what the check of the whole model lets through
    site = "0" if make is zoo.lenet else "conv1"
    for factor in (gap / 4, 0.01):
        monkeypatch.setattr(
            fm.nn.ConvReLUMaxPool2d,
            "forward",
            lambda self, x, factor=factor: honest(self, x) * (1 + factor),
        )
        fused = fm.optimize(make().eval(), x)
        words = ("failed its float64 check: output off by", "dropped: with it the model disagrees")
        assert site not in swapped(fused) and reason_of(fused, site).startswith(words)
        assert swapped(fused)  # the others stay


def test_a_wrong_gradient_is_rejected_though_outputs_agree(x, races, monkeypatch):
    class Off(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * 1.01

    honest = fm.nn.ConvReLU2d.forward
    monkeypatch.setattr(fm.nn.ConvReLU2d, "forward", lambda self, x: Off.apply(honest(self, x)))
    fused = fm.optimize(zoo.lenet(), x)
    assert "3" not in swapped(fused)
    assert "gradient of" in reason_of(fused, "3") and "float64" in reason_of(fused, "3")
    failed = next(p for p in fm.plan_of(fused).left if p.site == "3")
    assert not failed.verification.passed and failed.measurement is None  # wrong, so not timed


def test_a_slow_kernel_is_rejected_by_the_measurement(x, monkeypatch):
    honest = fm.nn.ConvReLUMaxPool2d.forward

    def slow(self, x):
        time.sleep(0.05)
        return honest(self, x)

    monkeypatch.setattr(fm.nn.ConvReLUMaxPool2d, "forward", slow)
    fused = fm.optimize(zoo.lenet(), x)
    assert "0" not in swapped(fused)
    words = ("slower than PyTorch: 0.", "no certain gain: 0.")  # the latter on a busy machine
    assert reason_of(fused, "0").startswith(words)


def test_a_candidate_that_raises_is_left(x, races, monkeypatch):
    honest = fm.nn.LinearReLU.forward

    def refuse(self, x):
        if torch.is_grad_enabled():
            raise ValueError("not today\nsecond line")
        return honest(self, x)

    monkeypatch.setattr(fm.nn.LinearReLU, "forward", refuse)
    fused = fm.optimize(zoo.Functional(), x)
    assert reason_of(fused, "fc1") == "raises on the captured input (ValueError: not today)"


def test_nothing_wins_alone(x, races, monkeypatch):
    monkeypatch.setattr(trials, "race", lambda *_: BARELY)
    model = zoo.Functional()
    fused = fm.optimize(model, x)
    plan = fm.plan_of(fused)
    assert type(fused) is type(model) and not plan.swaps and plan.whole is None
    assert plan.verdict == "nothing won alone: the model is returned as it was"
    assert "no certain gain: 0.98 [0.95, 1.01]" in reason_of(fused, "conv1")


def test_a_gain_that_is_not_certain_is_none(x, races, monkeypatch):
    likely = Measurement(1e-2, 0.95e-2, 1.05, 1.01, 1.1, 48)
    monkeypatch.setattr(trials, "race", lambda *_: likely)
    fused = fm.optimize(zoo.Functional(), x)
    assert "no certain gain: 1.05 [1.01, 1.10]" in reason_of(fused, "conv1")


def test_what_loses_little_alone_may_win_beside_its_neighbours(x, races, monkeypatch):
    alone = {"conv1": FAST, "conv2": SLOW, "fc1": EVEN}
    order = iter(alone.values())
    monkeypatch.setattr(trials, "race", lambda *_: next(order))
    builds = []
    monkeypatch.setattr(
        measured, "ranking", lambda arms, *_: builds.extend(arms) or list(arms)[::-1]
    )
    fused = fm.optimize(zoo.Functional(), x)
    assert len(builds) == 2 and swapped(fused) == {"conv1", "fc1"}
    words = "wins beside its neighbours (no certain gain: 1.00 [0.97, 1.03] alone)"
    assert reason_of(fused, "fc1") == words
    assert reason_of(fused, "conv2").startswith("slower than PyTorch")


def test_no_build_with_neighbours_where_dynamo_follows(x, races, monkeypatch):
    monkeypatch.setattr(trials, "race", lambda *_: EVEN)
    plan = fm.plan_of(fm.optimize(zoo.Counting(), x))
    assert not plan.swaps and plan.verdict.startswith("nothing won alone")


def test_levers_are_taken_out_until_the_whole_wins(x, races, monkeypatch):
    order = iter([FAST, Measurement(1, 1, 1.2, 1.1, 1.3, 8), Measurement(1, 1, 1.5, 1.4, 1.6, 8)])
    monkeypatch.setattr(trials, "race", lambda *_: next(order))  # conv1, conv2, fc1
    races += [EVEN, EVEN]
    fused = fm.optimize(zoo.Functional(), x)
    assert swapped(fused) == {"conv1"}  # the weakest first: conv2, then fc1
    assert "taken out again" in reason_of(fused, "conv2")
    assert fm.plan_of(fused).whole == FAST


def test_a_whole_that_never_wins_comes_back_as_it_was(x, races):
    races += [EVEN] * 20
    model = zoo.Functional()
    fused = fm.optimize(model, x)
    plan = fm.plan_of(fused)
    assert type(fused) is type(model) and not plan.swaps and plan.whole == EVEN
    assert "returned as it was" in plan.verdict and plan.reason == plan.verdict
    races[:] = [None]
    plan = fm.plan_of(fm.optimize(model, x))
    assert not plan.swaps and "budget was spent before the whole step" in plan.verdict


def test_the_gain_that_is_asked_for(x, races):
    races += [FAST]
    assert not swapped(fm.optimize(zoo.Functional(), x, min_gain=0.95))
    assert swapped(fm.optimize(zoo.Functional(), x, min_gain=0.5))


def test_channels_last_is_a_lever_of_its_own(races, monkeypatch):
    x = torch.randn(2, 3, 10, 10)
    monkeypatch.setattr(measured, "ranking", lambda arms, *_: list(arms)[::-1])
    model = zoo.Residual()
    fused = fm.optimize(model, x)
    plan = fm.plan_of(fused)
    assert plan.pulled == ("channels_last",)
    assert fused(x).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)
    assert type(fused).__name__ == "Residual" and isinstance(fused, zoo.Residual)
    assert model.conv1.weight.is_contiguous()
    assert fm.revert(fused)(x).is_contiguous()
    left = fm.plan_of(fm.optimize(zoo.Functional(), torch.randn(4, 1, 12, 12))).levers[0]
    assert not left.is_pulled and "one channel" in left.reason


def test_levers_by_name(x, races):
    plan = fm.plan_of(fm.optimize(zoo.Functional(), x, levers=("channels_last", "cuda_graph")))
    assert not plan.swaps and {lever.name for lever in plan.levers} == {
        "channels_last",
        "cuda_graph",
    }
    assert "cpu, which has no CUDA graphs" in plan.levers[-1].reason
    assert any("'sites' was not asked for" in place.reason for place in plan.left)
    assert set(levers.DEFAULT) == {"sites", "channels_last", "loss", "optimizer"}


def test_autocast_only_where_it_is_allowed(x, races, monkeypatch):
    monkeypatch.setattr(measured, "ranking", lambda arms, *_: list(arms)[::-1])
    assert fm.optimize(nn.Linear(12, 3), x).weight.dtype is torch.float32
    fused = fm.optimize(zoo.Functional(), x, levers=("sites", "autocast"))
    assert fm.plan_of(fused).pulled == ("autocast",)
    hidden = []
    fused.fc2.register_forward_hook(lambda m, i, out: hidden.append(out.dtype))
    fused(x)
    assert hidden == [torch.bfloat16]


def test_a_layout_with_which_the_model_disagrees_is_dropped(races, monkeypatch):
    x = torch.randn(2, 3, 10, 10)

    class Tells(zoo.Residual):
        def forward(self, x):
            y = super().forward(x)
            return y if x.is_contiguous() else y + 1

    plan = fm.plan_of(fm.optimize(Tells(), x))
    layout = next(lever for lever in plan.levers if lever.name == "channels_last")
    assert not layout.is_pulled and layout.reason.startswith("dropped: with it the model disagrees")


class TestStep:
    """`fm.optimize_step`: the loss and the optimizer too."""

    def parts(self, kind=torch.optim.Adam):
        model = zoo.Functional()
        return model, nn.CrossEntropyLoss(), kind(model.parameters(), lr=0.01)

    def test_what_wins_takes_their_places(self, x, races):
        model, loss, optimizer = self.parts()
        targets = torch.randint(0, 3, (4,))
        before = [p.clone() for p in model.parameters()]
        for _ in range(2):  # some state to carry over
            loss(model(x), targets).backward()
            optimizer.step()
        moved = [p.clone() for p in model.parameters()]
        step = fm.optimize_step(model, loss, optimizer, x, targets)
        assert type(step.loss) is fm.nn.CrossEntropyLoss
        assert type(step.optimizer) is fm.optim.Adam
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), moved, strict=True))
        assert not all(torch.equal(p, q) for p, q in zip(before, moved, strict=True))
        assert step.optimizer.param_groups[0]["lr"] == 0.01
        parameter = next(model.parameters())
        assert step.optimizer.state[parameter]["step"] == 2
        plan = fm.plan_of(step.model)
        assert plan.pulled == ("loss", "optimizer")
        assert all(lever.verification.passed for lever in plan.levers if lever.is_pulled)

    def test_it_trains_like_the_given_step(self, x, races):
        targets = torch.randint(0, 3, (4,))
        torch.manual_seed(3)
        model, loss, optimizer = self.parts()
        torch.manual_seed(3)
        step = fm.optimize_step(*self.parts(), x, targets)
        for _ in range(10):
            values = []
            for one in (step, (model, loss, optimizer)):
                one[2].zero_grad()
                value = one[1](one[0](x), targets)
                value.backward()
                one[2].step()
                values.append(value.item())
            assert values[0] == pytest.approx(values[1], rel=1e-3)

    def test_what_has_no_fused_form_is_left(self, x, races):
        model = zoo.Functional()
        parts = model, nn.NLLLoss(), torch.optim.RMSprop(model.parameters())
        step = fm.optimize_step(*parts, x, torch.randint(0, 3, (4,)))
        assert step[1:] == parts[1:]
        reasons = {lever.name: lever.reason for lever in fm.plan_of(step.model).levers}
        assert "NLLLoss has no fused form" in reasons["loss"]
        assert "RMSprop has no fused form" in reasons["optimizer"]

    def test_a_wrong_loss_and_a_wrong_optimizer_are_rejected(self, x, races, monkeypatch):
        honest, step = fm.nn.CrossEntropyLoss.forward, fm.optim.Adam.step
        monkeypatch.setattr(
            fm.nn.CrossEntropyLoss, "forward", lambda self, a, b: honest(self, a, b) * 1.01
        )

        def twice(self, closure=None):
            step(self), step(self)

        monkeypatch.setattr(fm.optim.Adam, "step", twice)
        found = fm.optimize_step(*self.parts(), x, torch.randint(0, 3, (4,)))
        assert fm.plan_of(found.model).pulled == ()
        reasons = [lever.reason for lever in fm.plan_of(found.model).levers[1:]]
        assert all("failed its float64 check" in reason for reason in reasons)


def test_leave_one_out(x, races):
    plan = fm.plan_of(fm.optimize(zoo.Functional(), x, explain=True))
    assert [c.name for c in plan.contributions] == ["site conv1", "site conv2", "site fc1"]
    assert "contributions, by leaving one out" in str(plan)
    assert fm.plan_of(fm.optimize(zoo.Functional(), x)).contributions == ()


def test_the_model_and_the_generators_are_left_as_they_were(races):
    x = torch.randn(4, 1, 12, 12)
    model = zoo.BufferOnly()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    fm.optimize(model, x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_is_frozen_is_measured_in_forward_alone(x, monkeypatch):
    model = zoo.lenet()
    for p in model[0].parameters():
        p.requires_grad_(False)
    plan = fm.plan_of(fm.optimize(model, x))
    frozen = next(p for p in (*plan.swaps, *plan.left) if p.site == "0")
    assert [check.tensor for check in frozen.verification.checks] == ["output"]


class TestBadInput:
    def test_messages(self, x):
        frozen = zoo.Functional().requires_grad_(False)
        cases = [
            ({"select": "guess"}, "select is 'guess'"),
            ({"budget_s": 0}, "budget_s is 0; pass a number above 0"),
            ({"budget_s": float("nan")}, "budget_s is nan"),
            ({"min_gain": -1}, "min_gain is -1"),
            ({"levers": ("speed",)}, "levers has 'speed'; known are sites, channels_last"),
            ({"plan": 3}, "plan must be a Plan or the path of one, got int"),
            ({"budget_s": 1e-4}, "budget_s=0.0001 is too small: a training step takes"),
        ]
        for options, words in cases:
            with pytest.raises(InputError) as raised:
                fm.optimize(zoo.Functional(), x, **options)
            assert words in str(raised.value) and "\n" not in str(raised.value)
        with pytest.raises(InputError, match="no parameter of the model requires a gradient"):
            fm.optimize(frozen, x)
        with pytest.raises(InputError, match="no output of the model has a gradient"):
            fm.optimize(NoGradient(), x)
        with pytest.raises(InputError, match=r"the model is on meta, example_inputs are on cpu"):
            fm.optimize(zoo.Functional().to("meta"), x)

    def test_a_step_that_raises(self, x):
        model = zoo.Functional()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(InputError, match="a plain training step raises ValueError: Expected"):
            fm.optimize_step(model, nn.CrossEntropyLoss(), optimizer, x, torch.zeros(3).long())

    def test_the_model_is_untouched_by_them(self, x):
        model = zoo.Functional()
        before = {name: dict(vars(m)) for name, m in model.named_modules()}
        for options in ({"budget_s": 1e-4}, {"levers": ("speed",)}, {"plan": "missing.json"}):
            with pytest.raises(InputError):
                fm.optimize(model, x, **options)
        assert before == {name: dict(vars(m)) for name, m in model.named_modules()}


class NoGradient(nn.Module):
    """Cuts its output off."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return self.conv(x).detach()


class TestPlan:
    """The receipt as a file."""

    @pytest.fixture
    def saved(self, x, races, tmp_path):
        path = tmp_path / "plan.json"
        fm.plan_of(fm.optimize(zoo.Functional(), x, explain=True)).save(path)
        return path

    def test_round_trip(self, x, races, saved):
        plan = fm.Plan.load(saved)
        assert str(plan) == str(fm.plan_of(fm.optimize(zoo.Functional(), x, plan=saved)))
        plan.save(saved.with_name("again.json"))
        assert saved.read_bytes() == saved.with_name("again.json").read_bytes()
        body = json.loads(saved.read_text())
        assert body["fingerprint"]["environment"]["torch"] == torch.__version__
        assert body["swaps"][0]["measurement"]["ratio"] == 2.0

    def test_applied_without_measuring(self, x, saved, monkeypatch):
        monkeypatch.setattr(measured, "race", lambda *_: pytest.fail("measured"))
        monkeypatch.setattr(trials, "race", lambda *_: pytest.fail("measured"))
        model = zoo.Functional()
        for plan in (saved, str(saved), fm.Plan.load(saved)):
            fused = fm.optimize(model, x, plan=plan)
            assert swapped(fused) == {"conv1", "conv2", "fc1"}
            assert fm.plan_of(fused) == fm.Plan.load(saved)
            torch.testing.assert_close(fused(x), model(x))

    def test_levers_are_applied_too(self, races, monkeypatch, tmp_path):
        x = torch.randn(2, 3, 10, 10)
        monkeypatch.setattr(measured, "ranking", lambda arms, *_: list(arms)[::-1])
        fm.plan_of(fm.optimize(zoo.Residual(), x)).save(tmp_path / "plan.json")
        fused = fm.optimize(zoo.Residual(), x, plan=tmp_path / "plan.json")
        assert fused(x).is_contiguous(memory_format=torch.channels_last)

    def test_another_machine_is_measured_anew(self, x, races, saved):
        body = json.loads(saved.read_text())
        body["fingerprint"]["environment"]["torch"] = "1.0"
        saved.write_text(json.dumps(body))
        races += [EVEN] * 20
        plan = fm.plan_of(fm.optimize(zoo.Functional(), x, plan=saved))
        assert not plan.swaps
        assert f"torch was 1.0, is {torch.__version__}" in plan.verdict

    def test_other_threads_are_another_machine(self, x, races, saved, monkeypatch):
        threads = torch.get_num_threads()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
        plan = fm.plan_of(fm.optimize(zoo.Functional(), x, plan=saved))
        assert f"threads was {threads}, is {threads + 1}" in plan.verdict

    def test_another_model_or_other_inputs_are_refused(self, x, saved):
        with pytest.raises(InputError, match="the plan is of another model"):
            fm.optimize(zoo.lenet(), x, plan=saved)
        with pytest.raises(InputError, match="the plan is for inputs 4x1x12x12 float32 cpu"):
            fm.optimize(zoo.Functional(), x[:2], plan=saved)
        wide = zoo.Functional()
        wide.fc2 = nn.Linear(12, 4)
        with pytest.raises(InputError, match="the plan is of another model"):
            fm.optimize(wide, x, plan=saved)
        hooked = zoo.Functional()
        hooked.conv1.register_forward_hook(lambda *_: None)
        with pytest.raises(InputError, match="the plan swaps 'conv1'"):
            fm.optimize(hooked, x, plan=saved)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (None, "cannot be read"),
            ("{", "is no plan of fastmodel"),
            ("{}", "swaps"),
            ('{"swaps": [], "left": [], "selection": "x", "format": 9}', "format 9"),
        ],
    )
    def test_a_file_that_is_no_plan(self, tmp_path, text, words):
        path = tmp_path / "plan.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(InputError, match=words) as raised:
            fm.Plan.load(path)
        assert "\n" not in str(raised.value)


def test_progress_is_reported(x, races):
    class Log:
        def __init__(self):
            self.lines = []

        def stage(self, title, total):
            self.lines.append(title)

        def advance(self):
            pass

        def say(self, line):
            self.lines.append(line)

    log = Log()
    fm.optimize(zoo.Functional(), x, progress=log)
    assert log.lines[:3] == ["one plain step", "trying candidates alone", "timing the whole step"]
    assert log.lines[-1].startswith("the whole step: 3 sites")
