import pytest
import torch

from fastmodel.errors import InputError
from fastmodel.timing import Sample, clock, interleave, now_s, paired_ratios


class DriftingClock:
    """A machine whose every second of work takes longer than the one before."""

    def __init__(self, drift_per_s: float = 0.0) -> None:
        self.time_s = 0.0
        self.drift_per_s = drift_per_s
        self.devices: list[str] = []

    def __call__(self, device: torch.device | str) -> float:
        self.devices.append(str(device))
        return self.time_s

    def work(self, seconds: float):
        def run() -> None:
            self.time_s += seconds * (1.0 + self.drift_per_s * self.time_s)

        return run


def test_two_arms_run_abba():
    order: list[str] = []
    arms = {name: (lambda name=name: order.append(name)) for name in "AB"}
    samples = list(interleave(arms, 4))
    assert "".join(order) == "ABBAABBA"
    assert [(s.arm, s.pair, s.position) for s in samples[:4]] == [
        ("A", 0, 0),
        ("B", 0, 1),
        ("B", 1, 0),
        ("A", 1, 1),
    ]


def test_three_arms_reverse_every_round():
    order: list[str] = []
    arms = {name: (lambda name=name: order.append(name)) for name in "ABC"}
    list(interleave(arms, 2))
    assert "".join(order) == "ABCCBA"


def test_windows_come_one_by_one():
    runs: list[str] = []
    windows = interleave({"A": lambda: runs.append("A"), "B": lambda: runs.append("B")}, 3)
    next(windows)
    assert runs == ["A"]


def test_times_are_those_of_the_clock_and_it_is_given_the_device():
    clock = DriftingClock()
    arms = {"slow": clock.work(3.0), "fast": clock.work(1.0)}
    samples = list(interleave(arms, 2, device="meta", clock=clock))
    assert [sample.time_s for sample in samples] == [3.0, 1.0, 1.0, 3.0]
    assert set(clock.devices) == {"meta"}
    assert paired_ratios(samples, "slow", "fast") == [3.0, 3.0]


def test_what_runs_before_a_window_is_not_timed():
    clock, order = DriftingClock(), []
    arms = {"A": clock.work(2.0), "B": clock.work(3.0)}

    def prepare() -> None:
        order.append(clock.time_s)
        clock.work(7.0)()

    samples = list(interleave(arms, 2, clock=clock, before_each={"B": prepare}))
    assert [s.time_s for s in samples] == [2.0, 3.0, 3.0, 2.0]
    assert order == [2.0, 12.0]


def test_linear_drift_cancels():
    clock = DriftingClock(drift_per_s=1e-3)
    arms = {"A": clock.work(1.0), "B": clock.work(1.0)}
    ratios = paired_ratios(list(interleave(arms, 8, clock=clock)), "A", "B")
    product = 1.0
    for ratio in ratios:
        product *= ratio
    assert ratios[0] < 0.9995 and ratios[1] > 1.0005  # one round alone shows the drift
    assert product == pytest.approx(1.0, abs=1e-4)


def test_a_round_cut_short_gives_no_ratio():
    samples = [Sample("A", 0, 0, 2.0), Sample("B", 0, 1, 1.0), Sample("B", 1, 0, 1.0)]
    assert paired_ratios(samples, "A", "B") == [2.0]


@pytest.mark.parametrize(("arms", "pairs"), [({}, 1), ({"A": lambda: None}, 0)])
def test_nothing_to_run_is_refused_at_once(arms, pairs):
    with pytest.raises(InputError, match="interleave"):
        interleave(arms, pairs)


def test_clock_waits_for_the_gpu(monkeypatch):
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    now_s("cuda:0")
    assert waited == [torch.device("cuda:0")]
    clock.synchronize("cpu")
    assert len(waited) == 1


def test_a_run_that_goes_on_keeps_counting_and_turning():
    order: list[str] = []
    arms = {name: (lambda name=name: order.append(name)) for name in "AB"}
    samples = list(interleave(arms, 2, first=3))
    assert "".join(order) == "BAAB"
    assert [sample.pair for sample in samples] == [3, 3, 4, 4]


@pytest.mark.parametrize("step_s", [0.0, -1.0])
def test_a_clock_that_does_not_advance_is_an_error(step_s):
    clock = DriftingClock()
    with pytest.raises(InputError, match="runs backwards"):
        list(interleave({"A": clock.work(step_s)}, 1, clock=clock))
