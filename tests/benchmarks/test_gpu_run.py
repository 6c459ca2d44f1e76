"""`make gpu` without a GPU: its parts, their shares, its records; the races on CPU tensors under a made-up
clock."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import function_races
import measure
import optimizer_races
import plan
import pytest
import records
import run as gpu_run
import step_races
import torch
import works
from function_arms import FUNCTIONS
from measure import Arm, Ceilings, Goal, Race
from records import Line

RUN = Path(gpu_run.__file__)
LIMITS = Ceilings(1000.0, {"bfloat16": 100.0})


class TestPlan:
    def test_the_shares_fill_the_budget(self):
        assert sum(step.share_s for step in plan.STEPS) == plan.BUDGET_S
        assert len({step.name for step in plan.STEPS}) == len(plan.STEPS)
        assert set(works.FUNCTION_PARTS) <= set(plan.BENCHES)

    def test_time_saved_goes_to_the_parts_that_come(self):
        build, *rest = plan.STEPS
        assert plan.limit_s(build, rest, plan.BUDGET_S) == build.share_s
        # The build took no time: each part gets its share of all of it.
        limit_s = plan.limit_s(rest[0], rest[1:], plan.BUDGET_S)
        assert limit_s == pytest.approx(480 * rest[0].share_s / (480 - build.share_s))
        assert plan.limit_s(rest[-1], [], 7.0) == 7.0
        assert plan.limit_s(rest[-1], [], -3.0) == 0.0

    def test_whatever_is_left_is_never_more_than_there_is(self):
        left_s = 50.0
        for index, step in enumerate(plan.STEPS):
            own_s = plan.limit_s(step, plan.STEPS[index + 1 :], left_s)
            assert 0 <= own_s <= left_s
            left_s -= own_s
        assert left_s == pytest.approx(0)

    def test_parts_by_name(self):
        assert [step.name for step in plan.chosen(["norms", "build"])] == ["build", "norms"]
        assert plan.chosen([]) == list(plan.STEPS)
        with pytest.raises(ValueError, match=r"unknown part 'norm'"):
            plan.chosen(["norm"])


def test_records_hold_json_alone(tmp_path):
    part = records.Part("losses", "title")
    part.lines.append(Line("op", "case", {"auto": 1.23456789}, ratio=(1.0, float("nan"), 2.0)))
    part.write(tmp_path / "losses.json")
    found = json.loads((tmp_path / "losses.json").read_text())
    assert found["lines"][0]["median_ms"]["auto"] == 1.23457
    assert found["lines"][0]["ratio"] == [1.0, None, 2.0]
    assert records.read(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text("{")
    assert records.read(tmp_path / "bad.json") is None


class FakeClock:
    """Every call takes as long as its name is said to."""

    def times_ms(self, calls, rounds):
        times = {"auto": 1.0, "torch": 3.0}
        return {name: [times.get(name, 2.0)] * rounds for name in calls}


@pytest.fixture
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(measure, "DEVICE", "cpu")
    monkeypatch.setattr(measure, "Clock", FakeClock)
    monkeypatch.setattr(measure, "peak_bytes", lambda call: (call(), 100)[1])


class TestRaces:
    def race(self, **arms):
        expected = [torch.ones(5, dtype=torch.float64)]
        made = {
            name: Arm(lambda: None, lambda value=value: [torch.full((5,), value)], name == "auto")
            for name, value in arms.items()
        }
        goals = (Goal("ratio to the best", 2.5), Goal("share of the copy", 0.9))
        return Race(Line("op", "case"), made, expected, size_bytes=1e8, goals=goals)

    def test_what_a_line_says(self, on_the_cpu):
        line = measure.run(self.race(auto=1.0, torch=1.0), LIMITS, 1.0)
        assert line.best_torch == "torch" and line.ratio[0] == pytest.approx(3.0)
        assert line.gb_per_s == pytest.approx(100.0)
        assert line.goals == [
            "ratio to the best >= 2.5: 3, reached",
            "share of the copy >= 0.9: 0.1, MISSED",
        ]

    def test_a_wrong_arm_of_pytorchs_is_left_out_and_one_of_ours_is_not_timed(self, on_the_cpu):
        line = measure.run(self.race(auto=1.0, torch=1.1), LIMITS, 1.0)
        assert "off by" in line.left_out["torch"] and list(line.median_ms) == ["auto"]
        assert "not measured" in line.goals[0]
        with pytest.raises(AssertionError, match="off by"):
            measure.run(self.race(auto=1.1, torch=1.0), LIMITS, 1.0)
        with pytest.raises(AssertionError, match="off by"):
            measure.run(self.race(auto=float("nan"), torch=1.0), LIMITS, 1.0)

    def test_memory_against_torchs(self, on_the_cpu):
        race = dataclasses.replace(
            self.race(auto=1.0, torch=1.0),
            has_memory=True,
            goals=(Goal("peak memory to torch's", 0.6, is_most=True),),
        )
        assert measure.run(race, LIMITS, 1.0).goals == ["peak memory to torch's <= 0.6: 1, MISSED"]

    def test_errors_by_the_norm(self):
        exact = torch.tensor([1.0, 2.0, float("nan")], dtype=torch.float64)
        assert measure.relative_error(exact.float(), exact) == 0
        assert measure.relative_error(torch.tensor([1.0, 2.0, 0.0]), exact) != 0
        assert measure.relative_error(torch.zeros(3), torch.zeros(3).double()) == 0
        for dtype in (torch.float32, torch.bfloat16):
            x = torch.randn(100_000, dtype=torch.float64)
            assert measure.relative_error(x.to(dtype), x) < measure.bound(dtype) / 3
            assert measure.relative_error(-x.to(dtype), x) > measure.bound(dtype)


WORKS = [
    (part, work)
    for part, make in works.FUNCTION_PARTS.items()
    for work in make()
    if work.op in FUNCTIONS
]


@pytest.mark.parametrize("part", works.FUNCTION_PARTS)
def test_a_part_has_works_with_goals_that_are_figures(part):
    known = {"ratio to the best", "ratio to torch", "ratio to liger", works.COPY, works.MEMORY}
    found = list(works.FUNCTION_PARTS[part]())
    assert found
    for work in found:
        assert {goal.figure for goal in work.goals} <= known
        assert work.rows >= 1 and (work.checked_rows or 1) <= work.rows
    assert len({(work.op, work.case) for work in found}) == len(found)


SMALL_ENOUGH = ("mse_loss", "cross_entropy", "linear_relu", "conv_relu_maxpool")


@pytest.mark.parametrize("op", SMALL_ENOUGH)
def test_a_work_runs_with_few_rows(op, on_the_cpu):
    """The first one of an op, every arm but the compiled one."""
    work = min((w for _, w in WORKS if w.op == op), key=lambda w: (w.flops, w.size_bytes))
    small = dataclasses.replace(work, rows=2, checked_rows=None, is_compiled=False)
    line = measure.run(function_races.race_of(small), LIMITS, 0.1)
    assert {"auto", "torch"} <= set(line.median_ms) and not line.error
    assert len(line.goals) == len(work.goals)


def test_an_op_that_is_not_there_says_so():
    work = next(iter(works.losses()))
    with pytest.raises(LookupError, match="no op telepathy"):
        function_races.race_of(dataclasses.replace(work, op="telepathy"))


def test_a_wrong_sign_is_seen(on_the_cpu, monkeypatch):
    work = dataclasses.replace(list(works.losses())[-1], rows=2, is_compiled=False)
    wrong = dataclasses.replace(
        FUNCTIONS["mse_loss"], face=lambda x, t: -FUNCTIONS["mse_loss"].plain(x, t)
    )
    monkeypatch.setitem(FUNCTIONS, "mse_loss", wrong)
    monkeypatch.setattr(function_races.op_arms, "_backends", lambda op: [])
    with pytest.raises(AssertionError, match="not timed"):
        measure.run(function_races.race_of(work), LIMITS, 0.1)


def test_the_optimizers_races_run_with_few_parameters(on_the_cpu):
    race = optimizer_races.adamw("few", ((3,), (65,)), (Goal("ratio to torch fused", 1.3),))
    line = measure.run(race, LIMITS, 0.1)
    # On the CPU PyTorch's fused step takes no heed of strides, and is left out.
    assert {"auto", "torch", "torch fused"} == set(line.median_ms) | set(line.left_out)
    assert "ratio" in line.goals[0]
    mixed = measure.run(optimizer_races.mixed("few", ((3,), (65,))), LIMITS, 0.1)
    assert {"auto", "torch", "torch fused"} == set(mixed.median_ms) | set(mixed.left_out)
    assert len(list(optimizer_races.races())) == 4


def test_a_step_race_times_every_arm_of_the_harness(on_the_cpu, monkeypatch, tmp_path):
    workload = tmp_path / "tiny.py"
    workload.write_text(
        textwrap.dedent(
            """
            import torch
            from fastmodel.harness.workloads import Optimizer, Split, Workload

            class Tiny(Workload):
                name = description = "tiny"
                def __init__(self, options):
                    split = Split(torch.randn(64, 4), torch.randint(3, (64,)))
                    self.train = self.validation = self.test = split
                def model(self):
                    return torch.nn.Linear(4, 3)
                def loss(self):
                    return torch.nn.CrossEntropyLoss()
                def optimizer(self):
                    return Optimizer("SGD", {"lr": 0.1})
            """
        )
    )
    monkeypatch.setattr(step_races, "_WINDOW_S", 0.002)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    options = step_races.Options(batch_size=8)
    goals = (Goal("ratio to eager", 8.0), Goal("ratio to the best compiled or graphed", 1.5))
    line = step_races.race(f"{workload}:Tiny", options, goals, LIMITS, 30.0)
    assert {"auto", "eager", "eager-fused", "compile"} == set(line.median_ms)
    assert line.figures["ratio to eager"] == line.median_ms["eager"] / line.median_ms["auto"]
    assert not line.left_out and len(line.goals) == 2


# What the interpreter on a GPU machine may lack of the package's dependencies.
LACKING = ("pydantic", "platformdirs", "click", "jinja2", "matplotlib")


def test_all_of_it_is_imported_without_what_only_reports_need():
    code = f"""
import sys
for name in {LACKING}:
    sys.modules[name] = None
sys.path[:0] = {[str(RUN.parent), str(RUN.parents[1] / "ops")]}
import function_races, measure, optimizer_races, step_races, worker, works
import fastmodel as fm
assert fm.plan_of is not None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
