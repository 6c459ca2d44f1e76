"""Memory and energy, from counters of our own making."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from fastmodel.harness.telemetry import Meter, RaplEnergy, energy_sources


class ReplayEnergy:
    """Gives recorded values one after the other."""

    name = "replay"

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def read_j(self) -> float:
        return next(self.values)


def domain(powercap: Path, folder: str, name: str, energy_uj: int, range_uj: int = 999) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


def test_energy_is_the_sum_of_what_the_counters_rose_by():
    sources = [ReplayEnergy([10.0, 14.5]), ReplayEnergy([100.0, 100.25])]
    with Meter("cpu", sources, None) as meter:
        pass
    assert meter.reading.energy_j == pytest.approx(4.75)
    assert meter.reading.energy_source == "replay + replay"
    assert meter.reading.missing == {}


def test_no_counter_is_none_with_the_reason():
    with Meter("cpu", [], "hidden") as meter:
        pass
    assert meter.reading.energy_j is None and meter.reading.energy_source is None
    assert meter.reading.missing == {"energy_j": "hidden"}


def test_rapl_goes_on_over_a_wrap(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", 900, range_uj=999)
    source = RaplEnergy(path)
    assert source.name == "RAPL package-0"
    for counter, expected_uj in [(950, 50), (20, 120), (20, 120), (10, 1110)]:
        (path / "energy_uj").write_text(str(counter))
        assert source.read_j() * 1e6 == pytest.approx(expected_uj)


def test_only_whole_packages_are_summed(tmp_path):
    domain(tmp_path, "intel-rapl:0", "package-0", 1)
    domain(tmp_path, "intel-rapl:0:0", "core", 1)
    domain(tmp_path, "intel-rapl:1", "psys", 1)
    domain(tmp_path, "intel-rapl:2", "package-1", 1)
    sources, reason = energy_sources("cpu", tmp_path)
    assert [source.name for source in sources] == ["RAPL package-0", "RAPL package-1"]
    assert reason is None


def test_a_machine_without_counters_says_so(tmp_path):
    sources, reason = energy_sources("cpu", tmp_path)
    assert sources == [] and "no RAPL counter" in reason


def test_a_counter_for_root_only_says_so(tmp_path, monkeypatch):
    domain(tmp_path, "intel-rapl:0", "package-0", 1)

    def refuse(self):
        raise PermissionError

    monkeypatch.setattr(RaplEnergy, "_read_uj", refuse)
    sources, reason = energy_sources("cpu", tmp_path)
    assert sources == [] and "readable by root only" in reason


def test_a_garbled_counter_says_so(tmp_path):
    path = domain(tmp_path, "intel-rapl:0", "package-0", 1)
    (path / "energy_uj").write_text("soon\n")
    sources, reason = energy_sources("cpu", tmp_path)
    assert sources == [] and "soon" in reason


def test_peak_memory_sees_what_was_freed_again():
    size_bytes = 256 << 20
    with Meter("cpu", [], None) as meter:
        block = torch.ones(size_bytes, dtype=torch.uint8)
        # The sampler looks every 20 ms; give it ten looks.
        threading.Event().wait(0.2)
        del block
    assert 0.9 * size_bytes < meter.reading.peak_memory_bytes < 1.5 * size_bytes


def test_an_idle_stretch_takes_next_to_nothing():
    with Meter("cpu", [], None) as meter:
        pass
    assert 0 <= meter.reading.peak_memory_bytes < 32 << 20


def test_the_meter_stops_its_thread_when_the_work_fails():
    with pytest.raises(ZeroDivisionError), Meter("cpu", [], None) as meter:
        raise ZeroDivisionError
    assert not meter._thread.is_alive()
    assert meter.reading is not None
