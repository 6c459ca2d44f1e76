from __future__ import annotations

import dataclasses
import json
import os

import pytest

from fastmodel.errors import DataError, InputError
from fastmodel.harness import store
from fastmodel.harness.records import Epoch, Window
from fastmodel.harness.store import Store, dump_report, load_report, write_atomically

from .sample_report import diverged, full, incomplete_after_gate, missing_values

WINDOW = Window("eager", 0, 0, 10, 640, 0.5, "paired")
EPOCH = Epoch(1, 0.5, None, 0.9, 1.0, 0.1, 1.0, 1e-3)


def test_samples_are_on_disk_before_the_next(tmp_path):
    with Store(tmp_path) as out:
        out.append(WINDOW)
        out.append(EPOCH, arm="eager")
        lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first == {"kind": "window", **dataclasses.asdict(WINDOW)}
    assert second == {"kind": "epoch", "arm": "eager", **dataclasses.asdict(EPOCH)}


@pytest.mark.parametrize("make", [full, incomplete_after_gate, missing_values, diverged])
def test_a_report_comes_back_as_it_was(tmp_path, make):
    report = make()
    with Store(tmp_path) as out:
        out.write(report)
    assert load_report(tmp_path / "report.json") == report
    assert load_report(tmp_path) == report
    assert json.loads(dump_report(report))["schema_version"] == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/fastmodel"])
def test_an_unwritable_folder_is_refused_at_once(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*; pass --out DIR") as caught:
        Store(tmp_path / place)
    assert "\n" not in str(caught.value)


def test_a_new_run_starts_a_new_sample_file(tmp_path):
    for _ in range(2):
        with Store(tmp_path) as out:
            out.append(WINDOW)
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("{", "is not a report of this version"),
        ('{"schema_version": 1}', "is not a report of this version"),
    ],
)
def test_what_is_no_report_is_said_in_one_line(tmp_path, content, message):
    path = tmp_path / "report.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        load_report(path)
    assert "\n" not in str(caught.value)
