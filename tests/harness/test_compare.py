from __future__ import annotations

from dataclasses import replace

import pytest

from fastmodel.errors import InputError
from fastmodel.harness.compare import compare
from fastmodel.harness.records import Interval

from .sample_report import full, incomplete_after_gate


def with_speedup(report, estimate, low, high):
    return replace(report, speedup=replace(report.speedup, estimate=estimate, ci95=(low, high)))


def row(comparisons, name):
    return next(row for row in comparisons.rows if row.name == name)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((4.0, 3.9, 4.1), "higher"),
        ((2.0, 1.9, 2.1), "lower"),
        ((3.1, 2.9, 3.3), "no difference seen"),
    ],
)
def test_a_difference_is_one_where_the_quotients_interval_excludes_1(interval, verdict):
    old, new = with_speedup(full(), 3.0, 2.8, 3.2), with_speedup(full(), *interval)
    found = row(compare(old, new), "speedup")
    assert found.verdict == verdict
    assert found.ratio.estimate == pytest.approx(interval[0] / 3.0)
    assert found.ratio.ci95[0] < found.ratio.estimate < found.ratio.ci95[1]


def test_every_arm_of_either_report_is_there():
    old, new = full(), full()
    name = next(iter(new.arms))
    arms = dict(new.arms)
    slower = replace(arms.pop(name), throughput_samples_per_s=Interval(1.0, (0.9, 1.1)))
    new = replace(new, arms=arms | {"another": replace(slower, name="another")})
    result = compare(old, new)
    assert row(result, f"{name} samples/s").verdict == "missing in new"
    assert row(result, "another samples/s").verdict == "missing in old"


def test_the_same_report_twice_shows_no_difference():
    result = compare(full(), full())
    assert {row.verdict for row in result.rows} == {"no difference seen"}
    assert result.warnings == []


def test_what_makes_reports_hard_to_compare_is_said():
    old = full()
    new = replace(old, environment=replace(old.environment, threads=99))
    assert any("threads differs: " in line for line in compare(old, new).warnings)
    incomplete = compare(old, incomplete_after_gate())
    assert any("the new report is incomplete" in line for line in incomplete.warnings)
    assert row(incomplete, "speedup").verdict == "missing in new"


@pytest.mark.parametrize(
    ("interval", "bound", "passed"),
    [
        ((2.7, 2.69, 2.71), 0.97, False),  # 10 % slower, and sure of it
        ((2.7, 2.3, 3.1), 0.97, True),  # 10 % slower, but unsure
        ((2.94, 2.93, 2.95), 0.97, True),  # 2 % slower: within what is allowed
        ((3.3, 3.29, 3.31), 0.97, True),
        ((3.3, 3.29, 3.31), 1.2, False),  # not fast enough for a bound above 1
    ],
)
def test_the_gate_fails_only_when_the_whole_interval_is_below(interval, bound, passed):
    old, new = with_speedup(full(), 3.0, 2.99, 3.01), with_speedup(full(), *interval)
    gate = compare(old, new, bound).gate
    assert gate.passed == passed and gate.bound == bound
    assert (gate.ratio.ci95[1] < bound) == (not passed)
    assert f"{interval[0] / 3:.3f} [" in gate.reason
    assert compare(old, new).gate is None


def test_the_gate_counts_the_noise_of_both_runs():
    sure, unsure = with_speedup(full(), 3.0, 2.99, 3.01), with_speedup(full(), 3.0, 2.6, 3.4)
    slower = with_speedup(full(), 2.8, 2.79, 2.81)
    assert not compare(sure, slower, 0.97).gate.passed
    assert compare(unsure, slower, 0.97).gate.passed


def test_unlike_runs_are_refused_unless_told():
    old = full()
    environment = replace(old.environment, cpu_model="another", threads=99)
    new = replace(old, environment=environment)
    with pytest.raises(InputError, match=r"machine differs: .*threads differs.*--allow-unlike"):
        compare(old, new, 0.97)
    assert compare(old, new, 0.97, allow_unlike=True).gate.passed
    assert compare(old, new).warnings
    other = replace(old, workload=replace(old.workload, batch_size=128))
    with pytest.raises(InputError, match="batch size differs: 64 and 128"):
        compare(old, other, 0.97)


def test_another_best_baseline_is_a_warning_not_a_refusal():
    old = full()
    new = replace(old, speedup=replace(old.speedup, baseline="eager"))
    result = compare(old, new, 0.97)
    assert result.gate.passed and result.warnings == [
        "best baseline differs: eager-fused and eager"
    ]


def test_a_gate_without_a_speedup_is_refused():
    with pytest.raises(InputError, match="needs a speed-up in both reports; missing in new"):
        compare(full(), incomplete_after_gate(), 0.97)
