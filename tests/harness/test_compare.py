from __future__ import annotations

from dataclasses import replace

import pytest

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
def test_a_difference_is_one_where_intervals_do_not_overlap(interval, verdict):
    old, new = with_speedup(full(), 3.0, 2.8, 3.2), with_speedup(full(), *interval)
    found = row(compare(old, new), "speedup")
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(interval[0] / 3.0)


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
