"""The GPU's telemetry: over a library of ours in the driver's place, and a fake at the module's seam."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pynvml
import pytest
import torch
from support.processes import script

from fastmodel.harness.telemetry import gpu, sources_for

SOURCE = Path(__file__).resolve().parents[1] / "support" / "fake_nvml.c"
CARD = "GPU-11111111-2222-3333-4444-555555555555"
SLICE = "MIG-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
GPM = ("sm_activity_percent", "sm_occupancy_percent", "tensor_activity_percent")

# All scenarios in one process: the library reads the scenario's name each time it is initialised.
PROGRAM = """
import ctypes, dataclasses, json, os, sys
import pynvml
from fastmodel.harness.telemetry import Sampler
from fastmodel.harness.telemetry.gpu import GpuSource

found = {}
for scenario, uuid in json.loads(sys.argv[1]).items():
    os.environ["FAKE_NVML"] = scenario
    source = GpuSource(uuid, pid=42)
    sampler = Sampler([source], period_s=60)
    with sampler:
        for _ in range(3):
            sampler._take()
    found[scenario] = dataclasses.asdict(sampler.telemetry)
    found[scenario]["samples_alive"] = pynvml.nvmlLib.fake_samples_alive()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to make a stand-in for libnvidia-ml.so.1 with")
    folder = tmp_path_factory.mktemp("nvml")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", library, SOURCE],
        check=True,
    )
    scenarios = {"normal": CARD, "hopper": CARD, "mig": SLICE, "no_permission": CARD, "lost": CARD}
    path = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    run = subprocess.run(
        script(PROGRAM, json.dumps(scenarios)),
        env=os.environ
        | {
            "LD_LIBRARY_PATH": os.pathsep.join(path),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def means(record):
    return {one["name"]: one["mean"] for one in record["series"]}


def totals(record):
    return {one["name"]: one["total"] for one in record["series"] if one["is_counter"]}


def test_every_quantity_of_a_normal_device_has_its_unit(found):
    record = found["normal"]
    assert record["source"] == "nvml"
    assert {name: value for name, value in means(record).items() if "energy" not in name} == {
        "gpu_busy_percent": 87,
        "gpu_memory_busy_percent": 41,
        "gpu_memory_used_bytes": 6 << 30,
        "gpu_process_memory_bytes": 5 << 30,
        "gpu_sm_clock_mhz": 1755,
        "gpu_throttled_power": 1.0,
        "gpu_throttled_thermal": 0.0,
        "gpu_throttled_other": 0.0,
        "gpu_power_violation_s": 0.0,
        "gpu_thermal_violation_s": 0.0,
        "gpu_power_w": 412.5,
        "gpu_temperature_c": 61,
        "gpu_pcie_sent_mb_per_s": 125.0,
        "gpu_pcie_received_mb_per_s": 2500.0,
    }
    # The counter rises by 2 J at each reading: five samples, four rises.
    assert totals(record)["gpu_energy_j"] == 8.0
    assert totals(record)["gpu_power_violation_s"] == 0.0
    assert record["facts"]["gpu_name"] == "Fake GPU" and record["facts"]["gpu_uuid"] == CARD
    assert "any kernel ran" in record["facts"]["gpu_busy_percent"]


def test_a_device_before_hopper_has_no_gpm_and_says_so(found):
    record = found["normal"]
    assert record["window"] == {}
    assert set(record["missing"]) == {*GPM, "dram_bandwidth_percent"}
    assert "Hopper" in record["missing"]["sm_activity_percent"]


@pytest.mark.parametrize("scenario", ["hopper", "mig"])
def test_gpm_is_one_difference_over_the_window(found, scenario):
    record = found[scenario]
    assert record["window"] == dict(zip(GPM, (71.5, 33.25, 48.0), strict=True))
    # One metric is refused by itself.
    assert record["missing"]["dram_bandwidth_percent"] == "NVML: Not Supported"
    assert record["samples_alive"] == 0


def test_a_slice_of_a_card_leaves_out_what_only_the_card_has(found):
    record = found["mig"]
    assert means(record)["gpu_memory_used_bytes"] == 6 << 30
    for name in ("gpu_busy_percent", "gpu_power_w", "gpu_energy_j", "gpu_pcie_sent_mb_per_s"):
        assert name not in means(record)
        assert record["missing"][name] == "NVML: Not Supported"
    assert record["facts"]["gpu_name"] == "Fake H100 MIG 1g.10gb"


def test_without_permission_nothing_is_read_and_nothing_is_zero(found):
    record = found["no_permission"]
    assert record["series"] == [] and record["window"] == {}
    assert set(record["missing"].values()) == {"NVML: Insufficient Permissions"}
    assert {"gpu_busy_percent", "gpu_power_w", *GPM} <= set(record["missing"])
    assert record["source"] == "none"


def test_a_device_lost_on_the_way_keeps_what_was_read(found):
    record = found["lost"]
    busy = next(one for one in record["series"] if one["name"] == "gpu_busy_percent")
    # The start and four samples more: read at first, then no more, and not 0.
    assert busy["values"][0] == 87 and busy["values"][-1] is None and busy["mean"] == 87
    assert record["missing"]["gpu_busy_percent"].startswith("NVML: GPU is lost, from ")


@pytest.fixture
def seam(monkeypatch):
    """What the calls of NVML return, by name; anything else is not supported."""
    answers = {}

    def refuse(*_, **__):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    for name in dir(pynvml):
        if name.startswith(("nvmlDevice", "nvmlGpm")):
            monkeypatch.setattr(pynvml, name, refuse)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)

    def answer(name, call):
        answers[name] = call
        monkeypatch.setattr(pynvml, name, call)

    return answer


def cuda_device(monkeypatch, uuid):
    properties = types.SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    return torch.device("cuda:0")


def known(*uuids):
    def find(uuid):
        if uuid not in uuids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return uuid

    return find


def test_the_device_is_found_by_the_uuid_of_what_pytorch_sees(seam, monkeypatch):
    seam("nvmlDeviceGetHandleByUUID", known("GPU-abc", "GPU-other"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu.gpu_source(cuda_device(monkeypatch, "abc")).facts["gpu_uuid"] == "GPU-abc"


@pytest.mark.parametrize(
    ("visible", "listed", "expected"),
    [("0", "MIG-abc", "MIG-abc"), ("MIG-slice", "MIG-slice", "MIG-slice")],
)
def test_a_slice_is_found_by_its_own_uuid(seam, monkeypatch, visible, listed, expected):
    seam("nvmlDeviceGetHandleByUUID", known(listed))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpu.gpu_source(cuda_device(monkeypatch, "abc")).facts["gpu_uuid"] == expected


def test_a_device_that_nvml_does_not_know_is_a_reason(seam, monkeypatch):
    seam("nvmlDeviceGetHandleByUUID", known())
    cuda_device(monkeypatch, "abc")
    sources, missing = sources_for("cuda:0")
    assert "Not Found" in missing["nvml"] or "not found" in missing["nvml"].lower()
    assert "nvml" not in [source.name for source in sources]


def test_an_old_driver_names_its_throttle_reasons_otherwise(seam):
    def absent(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    seam("nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    seam("nvmlDeviceGetCurrentClocksEventReasons", absent)
    seam("nvmlDeviceGetCurrentClocksThrottleReasons", lambda handle: 0x40 | 0x8)
    sample = gpu.GpuSource("GPU-abc").sample()
    assert sample == {
        "gpu_throttled_power": 0.0,
        "gpu_throttled_thermal": 1.0,
        "gpu_throttled_other": 1.0,
    }


def test_a_moments_refusal_leaves_a_gap_and_no_reason(seam):
    answers = iter([3_000, None, 4_000])

    def power(handle):
        value = next(answers)
        if value is None:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        return value

    seam("nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    seam("nvmlDeviceGetPowerUsage", power)
    source = gpu.GpuSource("GPU-abc")
    assert source.sample() == {}
    assert source.sample() == {"gpu_power_w": 4.0}
    assert "gpu_power_w" not in source.missing


def test_a_process_of_another_namespace_has_no_memory_figure(seam):
    process = types.SimpleNamespace(pid=1, usedGpuMemory=5)
    seam("nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    seam("nvmlDeviceGetComputeRunningProcesses", lambda handle: [process])
    source = gpu.GpuSource("GPU-abc", pid=42)
    assert source.sample() == {}
    assert gpu.GpuSource("GPU-abc", pid=1).sample() == {"gpu_process_memory_bytes": 5}


def test_memory_withheld_by_the_driver_is_a_missing_permission(seam):
    process = types.SimpleNamespace(pid=42, usedGpuMemory=None)
    seam("nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    seam("nvmlDeviceGetComputeRunningProcesses", lambda handle: [process])
    source = gpu.GpuSource("GPU-abc", pid=42)
    assert "Permission" in source.missing["gpu_process_memory_bytes"]


def test_energy_is_in_joules(seam):
    seam("nvmlDeviceGetHandleByUUID", lambda uuid: uuid)
    seam("nvmlDeviceGetTotalEnergyConsumption", lambda handle: 3_500)
    assert gpu.GpuSource("GPU-abc").energy_j() == 3.5
