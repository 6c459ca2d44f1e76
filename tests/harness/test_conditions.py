"""Marks from made-up counters, and counters from made-up files."""

from __future__ import annotations

import dataclasses

import pytest

from fastmodel.harness.conditions import Conditions, Snapshot, Sources, marks

BEFORE = Snapshot(
    time_s=100.0,
    wall_s=1_000_000.0,
    awake_s=5.0,
    cpu_s={"busy": 50.0, "stolen": 1.0, "own": 20.0},
    cpus=2,
    counters={"quota_s": 1.0, "swapped_pages": 10.0, "heat_events": 3.0},
)


def after(cpu=None, counters=None, **fields) -> Snapshot:
    """One quiet second later, but for what is given."""
    quiet = {"busy": 52.0, "stolen": 1.0, "own": 22.0}
    return dataclasses.replace(
        BEFORE,
        **{"time_s": 101.0, "wall_s": 1_000_001.0, **fields},
        cpu_s=quiet | (cpu or {}),
        counters={**BEFORE.counters, **(counters or {})},
    )


def test_a_quiet_window_has_no_marks():
    assert marks(BEFORE, after()) == []


@pytest.mark.parametrize(
    ("snapshot", "mark"),
    [
        (after({"stolen": 1.4}), "descheduled: the hypervisor took 20% of the CPUs"),
        (
            after({"busy": 52.0, "own": 21.0}),
            "descheduled: other processes took 50% of the CPUs",
        ),
        (
            after(counters={"quota_s": 1.25}),
            "throttled: the CPU quota held it back for 0.25 s",
        ),
        (after(counters={"heat_events": 5.0}), "throttled: too hot, 2 times"),
        (after(counters={"swapped_pages": 17.0}), "swapping: 7 pages moved"),
        (after(awake_s=8.0, wall_s=1_000_004.0), "the machine slept for 3.0 s"),
        (
            after(wall_s=996_401.0),
            "the system's clock was set by -3600.0 s; times are from another clock",
        ),
    ],
)
def test_each_disturbance_is_named(snapshot, mark):
    assert marks(BEFORE, snapshot) == [mark]


@pytest.mark.parametrize(
    "snapshot",
    [
        after({"stolen": 1.08}),
        after({"own": 21.8}),
        after({"busy": 51.9}),  # own time counted later than anyone's
        after(counters={"quota_s": 1.005}),
        after(wall_s=1_000_001.2),
    ],
)
def test_what_is_small_is_no_mark(snapshot):
    assert marks(BEFORE, snapshot) == []


def test_counters_come_from_the_system(tmp_path):
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_throttled 2\nthrottled_usec 250000\n")
    (tmp_path / "vmstat").write_text("nr_free_pages 1\npswpin 4\npswpout 3\n")
    for cpu, count in (("cpu0", 2), ("cpu1", 5)):
        folder = tmp_path / cpu / "thermal_throttle"
        folder.mkdir(parents=True)
        (folder / "core_throttle_count").write_text(f"{count}\n")
    sources = Sources(tmp_path / "cpu.stat", tmp_path / "vmstat", tmp_path)
    assert Conditions(sources).read().counters == {
        "quota_s": 0.25,
        "swapped_pages": 7.0,
        "heat_events": 7.0,
    }


def test_what_the_system_does_not_tell_is_left_out(tmp_path):
    nowhere = Sources(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert Conditions(nowhere).read().counters == {}


def test_own_work_is_not_somebody_elses():
    conditions = Conditions()
    before = conditions.read()
    deadline = before.time_s + 0.3
    while (now := conditions.read()).time_s < deadline:
        pass
    assert now.cpu_s["own"] > before.cpu_s["own"]
    assert now.time_s > before.time_s and now.cpus >= 1
