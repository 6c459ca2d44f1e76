"""What is logged, read back by the real packages."""

from __future__ import annotations

import csv
import json
import math
import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fastmodel.errors import InputError
from fastmodel.harness import loggers
from fastmodel.harness.loggers import csv_file, openmetrics, tensorboard, wandb_offline
from fastmodel.harness.loggers.figures import figures

from .sample_report import diverged, full, hostile, incomplete_after_gate

needs_tensorboard = pytest.mark.skipif(tensorboard.missing(), reason="tensorboard is not installed")
needs_wandb = pytest.mark.skipif(wandb_offline.missing(), reason="wandb is not installed")


def test_figures_are_the_records_and_what_is_missing_is_left_out():
    found = {(one.arm, one.name): one.value for one in figures(full())}
    assert found["", "speedup_ratio"] == 3.2134
    assert found["", "speedup_ratio_low"] == 3.1511
    assert found["fastmodel", "throughput_samples_per_s"] == 13904.0
    assert found["fastmodel", "test_accuracy"] == 0.9892
    assert found["eager", "energy_j"] == 152.04
    assert ("fastmodel", "energy_j") not in found and ("eager", "test_accuracy") not in found
    assert list(figures(incomplete_after_gate())) == []


def test_csv_has_a_row_a_figure_and_epoch(tmp_path):
    report = full(epochs=3)
    rows = list(csv.DictReader(csv_file.write(report, tmp_path).read_text().splitlines()))
    assert list(rows[0]) == ["workload", "arm", "epoch", "figure", "value"]
    plain = {(row["arm"], row["figure"]): float(row["value"]) for row in rows if not row["epoch"]}
    assert plain == {(one.arm, one.name): one.value for one in figures(report)}
    losses = [
        float(r["value"]) for r in rows if (r["arm"], r["figure"]) == ("fastmodel", "train_loss")
    ]
    assert losses == [epoch.train_loss for epoch in report.arms["fastmodel"].epochs]


def test_csv_text_is_no_formula(tmp_path):
    report = full()
    evil = replace(report.workload, name="=HYPERLINK(1)")
    text = csv_file.write(replace(report, workload=evil), tmp_path).read_text()
    assert "\n'=HYPERLINK(1)," in text and "\n=" not in text


@pytest.mark.parametrize("make", [full, diverged, hostile, incomplete_after_gate])
def test_openmetrics_is_an_exposition(make, tmp_path):
    text = openmetrics.write(make(), tmp_path).read_text()
    lines = text.splitlines()
    assert lines[-1] == "# EOF" and text.endswith("\n")
    families, seen = set(), set()
    for line in lines[:-1]:
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert name not in families and line.endswith(" gauge")
            families.add(name)
        elif not line.startswith("# HELP "):
            series, value = line.rsplit(" ", 1)
            assert series.split("{")[0] in families and math.isfinite(float(value))
            assert series not in seen
            seen.add(series)
            inner = series[series.index("{") + 1 : -1].replace("\\\\", "").replace('\\"', "")
            assert inner.count('"') % 2 == 0


def test_openmetrics_values_units_and_labels(tmp_path):
    text = openmetrics.write(full(), tmp_path).read_text()
    assert 'fastmodel_speedup_ratio{workload="mnist-cnn"} 3.2134' in text
    arm = 'workload="mnist-cnn",arm="fastmodel"'
    assert f"fastmodel_throughput_samples_per_second{{{arm}}} 13904.0" in text
    assert "fastmodel_train_time_seconds{" in text and "fastmodel_energy_joules{" in text


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_every_curve_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report = full(epochs=4)
    tensorboard.write(report, tmp_path)
    root = tensorboard.write(report, tmp_path)  # once more: the old log is replaced, not doubled
    runs = {}
    for folder in sorted(root.iterdir()):
        log = EventAccumulator(str(folder))
        log.Reload()
        runs[folder.name] = log
    assert list(runs) == ["0-fastmodel", "1-eager-fused", "2-eager", "3-channels-last", "run"]
    for name, arm in (("0-fastmodel", "fastmodel"), ("1-eager-fused", "eager-fused")):
        events = runs[name].Scalars("validation_accuracy")
        expected = [epoch.validation_accuracy for epoch in report.arms[arm].epochs]
        assert [event.step for event in events] == [1, 2, 3, 4]
        assert [event.value for event in events] == pytest.approx(expected, rel=1e-6)
    assert runs["run"].Scalars("run/speedup_ratio")[0].value == pytest.approx(3.2134)
    found = runs["2-eager"].Scalars("run/throughput_samples_per_s")
    assert [event.value for event in found] == [3655.0]
    assert "train_loss" not in runs["2-eager"].Tags()["scalars"]


def leveldb_log(content: bytes) -> Iterator[bytes]:
    """The records of a run's file: blocks of 32 KiB, the first with seven bytes of its own before."""
    position, record = 7, b""
    while position + 7 <= len(content):
        room = 32768 - position % 32768
        if room < 7:  # what cannot hold a header is padding
            position += room
            continue
        _, size, kind = struct.unpack("<IHB", content[position : position + 7])
        record += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@needs_wandb
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_reads_every_curve_back(tmp_path, monkeypatch):
    for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    from wandb.proto import wandb_internal_pb2

    report = full(epochs=3)
    folder = wandb_offline.write(report, tmp_path)
    (file,) = folder.glob("offline-run-*/*.wandb")
    history, summary = [], {}
    for data in leveldb_log(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            row = {i.key or "/".join(i.nested_key): i.value_json for i in record.history.item}
            history.append({key: json.loads(value) for key, value in row.items()})
        if record.HasField("summary"):
            for item in record.summary.update:
                summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    losses = [row["fastmodel/train_loss"] for row in history]
    assert losses == [epoch.train_loss for epoch in report.arms["fastmodel"].epochs]
    assert [row["_step"] for row in history] == [1, 2, 3]
    assert summary["speedup_ratio"] == 3.2134
    assert summary["eager/energy_j"] == 152.04


def test_a_logger_without_its_package_is_refused_before_anything_is_run(monkeypatch):
    for module in (tensorboard, wandb_offline):
        monkeypatch.setattr(module, "missing", lambda: True)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(InputError, match=rf"--log {name} needs .*fastmodel\[{name}\]"):
            loggers.check((name,))
    loggers.check(("csv", "openmetrics"))


@pytest.mark.parametrize("name", ["csv", "openmetrics"])
def test_loggers_by_name(tmp_path, name):
    written = loggers.write(full(), tmp_path, (name,))
    assert written[name].exists() and written[name].parent == tmp_path
