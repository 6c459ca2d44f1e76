"""The sampler's record: gauges, counters, what is missing, and that it stays bounded."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time

import pytest

from fastmodel.errors import InputError
from fastmodel.harness.telemetry import HostSource, RaplSource, Replay, Sampler, sources_for
from fastmodel.harness.telemetry import sampler as module


def sampled(source, **options):
    """Two samples, one at each end: the period is longer than the window."""
    with Sampler([source], period_s=60, **options) as sampler:
        pass
    return sampler.telemetry


def series(telemetry):
    return {one.name: one for one in telemetry.series}


def test_a_gauge_has_a_mean_and_a_maximum_and_a_counter_its_rise():
    replay = Replay(
        [{"power_w": 100.0, "energy_j": 5_000.0}, {"power_w": 300.0, "energy_j": 5_600.0}],
        counters=["energy_j"],
    )
    found = sampled(replay)
    power, energy = series(found)["power_w"], series(found)["energy_j"]
    assert (power.mean, power.maximum, power.total) == (200.0, 300.0, None)
    assert energy.total == 600.0 and energy.maximum is None
    assert energy.mean == pytest.approx(600.0 / (found.times_s[1] - found.times_s[0]))
    assert found.source == "replay" and found.missing == {}


def test_what_was_not_read_is_none_and_never_zero():
    replay = Replay([{"a_w": 1.0}, {"b_w": math.nan}], missing={"c_w": "hidden"})
    found = sampled(replay, missing={"nvml": "no driver"})
    assert series(found)["a_w"].values == [1.0, None]
    assert series(found)["a_w"].mean == 1.0
    assert series(found)["b_w"].values == [None, None] and series(found)["b_w"].mean is None
    assert found.missing == {
        "c_w": "hidden",
        "nvml": "no driver",
        "b_w": "no sample could be read",
    }


def test_figures_of_the_window_are_taken_at_its_end():
    found = sampled(Replay([], window={"sm_activity_percent": 71.5}))
    assert found.window == {"sm_activity_percent": 71.5}
    assert found.source == "none"


def test_the_samples_stay_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_SAMPLES", 8)
    sampler = Sampler([Replay([{"a": float(n)} for n in range(1000)])], period_s=1e-4)
    with sampler:
        deadline_s = time.monotonic() + 30
        while sampler._period_s < 4e-4:
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
    found = sampler.telemetry
    assert len(found.times_s) <= 8 + 2
    assert found.times_s == sorted(found.times_s) and found.period_s >= 4e-4
    # Every second one was dropped, none of those that remain was changed.
    values = series(found)["a"].values
    assert values[0] == 0.0 and values == sorted(values)


def test_the_thread_ends_with_the_window_even_if_the_work_fails():
    with pytest.raises(ZeroDivisionError), Sampler([]) as sampler:
        raise ZeroDivisionError
    assert not sampler._thread.is_alive() and sampler.telemetry is not None


@pytest.mark.parametrize("period_s", [0, -1, math.nan])
def test_a_period_must_be_above_zero(period_s):
    with pytest.raises(InputError, match="must be above 0"):
        Sampler([], period_s=period_s)


def test_the_host_counts_its_cores_and_its_childrens_apart():
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        source = HostSource()
        source.start()
        source.sample()
        threading.Event().wait(0.5)
        found = source.sample()
    finally:
        child.kill()
        child.wait()
    assert found["children"] == 1 and found["children_memory_bytes"] > 0
    assert found["children_cpu_cores"] > 0.05
    # This process slept.
    assert found["process_cpu_cores"] < found["children_cpu_cores"]
    assert found["process_memory_bytes"] > 1 << 20
    source._looked_s = -math.inf
    assert source.sample()["children"] == 0


def test_a_machine_without_rapl_says_so(tmp_path):
    source = RaplSource(tmp_path)
    assert source.quantities == [] and source.sample() == {}
    assert "no RAPL counter" in source.missing["cpu_energy_j"]


def test_rapl_is_summed_over_packages_and_told_when_it_goes(tmp_path):
    for index, start in enumerate((900, 100)):
        path = tmp_path / f"intel-rapl:{index}"
        path.mkdir()
        (path / "name").write_text(f"package-{index}\n")
        (path / "energy_uj").write_text(f"{start}\n")
        (path / "max_energy_range_uj").write_text("999\n")
    source = RaplSource(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("50")  # wrapped: 150 more
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("300")
    assert source.sample() == {"cpu_energy_j": pytest.approx(350e-6)}
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("gone")
    assert source.sample() == {}
    assert "from some moment on" in source.missing["cpu_energy_j"]


def test_on_the_cpu_there_is_no_gpu_to_read():
    sources, missing = sources_for("cpu")
    assert [source.name for source in sources] == ["psutil", "rapl"]
    assert missing == {"nvml": "the work is on cpu"}


def test_without_a_driver_the_reason_is_kept():
    sources, missing = sources_for("cuda:0")
    if missing:  # on a machine with a GPU there is nothing missing
        assert missing["nvml"].startswith("NVML: ")
        assert [source.name for source in sources] == ["psutil", "rapl"]
