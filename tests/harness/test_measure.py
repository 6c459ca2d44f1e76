"""Windows, throughput, the choice of the baseline and the speed-up, from made-up times."""

from __future__ import annotations

import dataclasses
import types

import pytest
import torch

from fastmodel.harness import measure
from fastmodel.harness.measure import AGAIN, Runner, Timing
from fastmodel.harness.records import Window
from fastmodel.harness.rewind import Rewind
from fastmodel.harness.workloads import default_arms
from fastmodel.timing import geometric_mean


def window(arm: str, pair: int, time_s: float, phase: str = "paired") -> Window:
    return Window(arm, pair, 0, steps=10, samples=100, time_s=time_s, phase=phase)


@pytest.fixture
def measured() -> list[Window]:
    """`fused` is the best baseline; in the paired phase it runs slower than it did when chosen."""
    windows = []
    for pair, drift in enumerate([1.0, 1.2, 0.9, 1.1]):
        windows += [
            window("eager", pair, 1.5 * drift, "calibration"),
            window("fused", pair, 0.8 * drift, "calibration"),
            window("fused", pair, 1.0 * drift),
            window("fastmodel", pair, 0.25 * drift * (1 + pair / 100)),
            window("fused", pair, 1.0 * drift, "noise"),
            window("fused" + AGAIN, pair, 1.01 * drift, "noise"),
        ]
    return windows


def test_the_best_baseline_is_chosen_in_the_calibration_alone(measured):
    assert measure.best_baseline(measured) == "fused"
    assert measure.best_baseline([window("fastmodel", 0, 0.1), *measured]) == "fused"


def test_speedup_is_the_geometric_mean_of_the_paired_ratios(measured):
    result = measure.speedup(measured, "fused", "fastmodel")
    assert result.ratios == pytest.approx([4 / 1.00, 4 / 1.01, 4 / 1.02, 4 / 1.03])
    assert result.estimate == pytest.approx(geometric_mean(result.ratios))
    assert result.ci95[0] <= result.estimate <= result.ci95[1]
    assert result.pairs == 4
    assert result.noise_floor == pytest.approx((1 / 1.01, 1 / 1.01))


def test_throughputs_of_the_pair_divide_to_the_speedup(measured):
    fused = measure.throughput(measured, "fused")
    fast = measure.throughput(measured, "fastmodel")
    ratio = fast.estimate / fused.estimate
    assert ratio == pytest.approx(measure.speedup(measured, "fused", "fastmodel").estimate)


def test_throughput_leaves_out_the_windows_an_arm_was_chosen_by(measured):
    assert measure.throughput(measured, "fused").estimate < 100
    assert measure.throughput(measured, "eager").estimate == pytest.approx(
        geometric_mean([100 / (1.5 * drift) for drift in (1.0, 1.2, 0.9, 1.1)])
    )
    assert measure.throughput(measured, "absent") is None


def test_windows_are_interleaved_steps_of_the_arms(blobs, options, stand_ins):
    arms = default_arms(blobs)
    runners = {arm.name: Runner(arm, blobs, options) for arm in arms[:2]}
    counts = dict.fromkeys(runners, 0)
    for name, runner in runners.items():
        step = runner.loop.step

        def counted(inputs, targets, name=name, step=step):
            counts[name] += 1
            return step(inputs, targets)

        runner.loop.step = counted
    found = list(measure.windows(runners, "paired", range(4, 6), 3, options))
    assert [w.arm for w in found] == ["eager", "eager-fused", "eager-fused", "eager"]
    assert [w.pair for w in found] == [4, 4, 5, 5]
    assert counts == {"eager": 6, "eager-fused": 6}
    assert all((w.steps, w.samples, w.phase) == (3, 24, "paired") for w in found)
    assert all(w.time_s > 0 for w in found)


def test_every_window_starts_from_the_same_training_state(blobs, options, stand_ins):
    arm = default_arms(blobs)[0]
    runner = Runner(arm, blobs, options)
    runner.run(3)
    model, optimizer = runner.loop.model, runner.loop.optimizer
    starts, targets_met = [], []
    run, step = runner.run, runner.loop.step

    def state() -> list[torch.Tensor]:
        entries = [v for s in optimizer.state.values() for v in s.values()]
        assert len(entries) == 3 * len(list(model.parameters()))
        return [t.detach().clone() for t in (*model.state_dict().values(), *entries)]

    def watched(steps: int) -> None:
        starts.append(state())
        run(steps)
        assert not torch.equal(state()[0], starts[-1][0])

    def met(inputs, targets):
        targets_met.append(targets.tolist())
        return step(inputs, targets)

    runner.run, runner.loop.step = watched, met
    addresses = [p.data_ptr() for p in model.parameters()]
    list(measure.windows({"eager": runner}, "paired", range(3), 2, options))
    assert len(starts) == 3
    assert all(torch.equal(a, b) for start in starts for a, b in zip(start, starts[0], strict=True))
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert len({str(batch) for batch in targets_met}) == 6  # the batches go on


def test_what_an_optimizer_keeps_beside_tensors_is_rewound_too():
    state = {"step": 3, "history": [torch.ones(2)]}
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = types.SimpleNamespace(state={weight: state})
    model = torch.nn.ParameterList([weight])
    kept = Rewind(types.SimpleNamespace(model=model, optimizer=optimizer, schedule=None))
    for _ in range(2):
        state["step"] += 1
        state["history"][0] += 1
        kept.back()
        assert state["step"] == 3
        assert state["history"][0].tolist() == [1, 1]


def test_arms_meet_the_same_batches(blobs, options, stand_ins):
    seen: dict[str, list] = {}
    for arm in default_arms(blobs):
        runner = Runner(arm, blobs, options)
        assert runner.startup_time_s > 0
        taken = seen.setdefault(arm.name, [])
        runner.loop.step = lambda inputs, targets, taken=taken: taken.append(targets.tolist())
        runner.run(12)
    assert len(seen) == 4 and all(len(batches) == 12 for batches in seen.values())
    assert all(batches == seen["eager"] for batches in seen.values())


@pytest.mark.parametrize(
    ("step_time_s", "steps", "warmup"),
    [(0.009, 83, 200), (0.011, 68, 200), (1e-6, 750_000, 500), (0.9, 1, 2), (5.0, 1, 0)],
)
def test_a_window_and_the_warmup_hold_as_many_steps_as_fit(step_time_s, steps, warmup, monkeypatch):
    clock = {"now_s": 0.0}

    class Fixed:
        def run(self, steps):
            clock["now_s"] += steps * step_time_s

    monkeypatch.setattr(measure, "now_s", lambda device: clock["now_s"])
    found = measure.choose_steps(Fixed(), Timing(window_time_s=0.75), "cpu")
    assert found == measure.Steps(steps, warmup)


def test_disturbed_windows_stay_and_the_ratio_without_them_stands_beside(measured):
    marked = [
        dataclasses.replace(w, marks=["swapping"]) if (w.pair, w.arm) == (3, "fused") else w
        for w in measured
    ]
    plain, result = (measure.speedup(w, "fused", "fastmodel") for w in (measured, marked))
    assert (result.estimate, result.ratios) == (plain.estimate, plain.ratios)
    assert (plain.disturbed_pairs, result.disturbed_pairs) == (0, 1)
    assert plain.undisturbed.estimate == pytest.approx(plain.estimate)
    assert result.undisturbed.estimate == pytest.approx(geometric_mean(plain.ratios[:3]))
    all_marked = [dataclasses.replace(w, marks=["swapping"]) for w in measured]
    result = measure.speedup(all_marked, "fused", "fastmodel")
    assert result.undisturbed is None and result.disturbed_pairs == 4


def test_a_windows_marks_are_what_changed_around_it(blobs, options, stand_ins, monkeypatch):
    readings = iter(range(100))
    monkeypatch.setattr(
        measure, "Conditions", lambda: types.SimpleNamespace(read=lambda: next(readings))
    )
    monkeypatch.setattr(measure, "marks", lambda before, after: [f"{before} to {after}"])
    runners = {"eager": Runner(default_arms(blobs)[0], blobs, options)}
    found = list(measure.windows(runners, "paired", range(3), 1, options))
    assert [w.marks for w in found] == [["0 to 1"], ["2 to 3"], ["4 to 5"]]


def test_steadiness_is_judged_of_the_paired_windows_of_each_arm():
    windows = []
    for pair in range(20):
        windows += [window("fused", pair, 1.0 + pair / 20), window("fastmodel", pair, 0.5)]
        windows += [
            window("fused", pair, 1.0, "noise"),
            window("fused" + AGAIN, pair, 1.0, "noise"),
        ]
    found = measure.speedup(windows, "fused", "fastmodel").steadiness
    assert found["fused"].verdict == "never steady" and found["fused"].drift > 0.5
    assert (found["fastmodel"].verdict, found["fastmodel"].first) == ("steady", 0)


def test_a_failed_arm_is_no_baseline(measured):
    assert measure.best_baseline(measured, {"fused": "died"}) == "eager"
