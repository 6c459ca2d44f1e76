from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from fastmodel.errors import DataError, InputError, StorageError
from fastmodel.harness import store
from fastmodel.harness.journal import EpochEnded, read_journal
from fastmodel.harness.records import SCHEMA_VERSION, Epoch, Window
from fastmodel.harness.store import Store, dump_report, load_report, write_atomically

from .sample_report import diverged, full, incomplete_after_gate, missing_values

WINDOW = Window("eager", 0, 0, 10, 640, 0.5, "paired")
EPOCH = Epoch(1, 0.5, None, 0.9, 1.0, 0.1, 1.0, 1e-3)


def test_samples_are_on_disk_before_the_next(tmp_path):
    with Store(tmp_path) as out:
        out.append(WINDOW)
        out.append(EpochEnded("eager", EPOCH))
        lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert 0 <= first.pop("at_s") <= second.pop("at_s")
    assert first == {"kind": "Window", **dataclasses.asdict(WINDOW)}
    assert second == {"kind": "EpochEnded", "arm": "eager", "epoch": dataclasses.asdict(EPOCH)}


@pytest.mark.parametrize("make", [full, incomplete_after_gate, missing_values, diverged])
def test_a_report_comes_back_as_it_was(tmp_path, make):
    report = make()
    with Store(tmp_path) as out:
        out.write(report)
    assert load_report(tmp_path / "report.json") == report
    assert load_report(tmp_path) == report
    assert json.loads(dump_report(report))["schema_version"] == SCHEMA_VERSION


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    write_atomically(path, "old")

    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "replace", fail)
    with pytest.raises(StorageError, match=r"disk full.*--resume"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.json"]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/fastmodel"])
def test_an_unwritable_folder_is_refused_at_once(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*; pass --out DIR") as caught:
        Store(tmp_path / place)
    assert "\n" not in str(caught.value)


def test_a_new_run_starts_a_new_sample_file_and_a_resumed_one_does_not(tmp_path):
    for resume, lines in ((False, 1), (False, 1), (True, 2), (True, 3)):
        with Store(tmp_path, resume) as out:
            assert len(out.events) == lines - 1
            out.append(WINDOW)
        assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == lines
    times = [at_s for at_s, _ in read_journal(tmp_path / "samples.jsonl")[0]]
    assert times == sorted(times)


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_line_that_was_being_written_is_dropped(tmp_path, cut):
    with Store(tmp_path) as out:
        out.append(WINDOW)
        out.append(WINDOW)
    journal = tmp_path / "samples.jsonl"
    os.truncate(journal, journal.stat().st_size - cut)
    with Store(tmp_path, resume=True) as out:
        assert [event for _, event in out.events] == [WINDOW]
        out.append(EpochEnded("eager", EPOCH))
    assert [event for _, event in read_journal(journal)[0]] == [WINDOW, EpochEnded("eager", EPOCH)]


@pytest.mark.parametrize(
    "line", ["{}", "[]", "nonsense", '{"kind": "Window", "at_s": 1}', '{"kind": "Nope", "at_s": 1}']
)
def test_a_line_that_is_no_event_is_said_with_its_number(tmp_path, line):
    with Store(tmp_path) as out:
        out.append(WINDOW)
    journal = tmp_path / "samples.jsonl"
    before = journal.read_text() + line + "\n"
    journal.write_text(before)
    with pytest.raises(DataError, match="line 2 is no event"):
        Store(tmp_path, resume=True)
    assert journal.read_text() == before  # what cannot be read is not thrown away


def test_two_runs_do_not_share_a_folder(tmp_path):
    with Store(tmp_path) as out:
        out.append(WINDOW)
        with pytest.raises(InputError, match="another run is writing"):
            Store(tmp_path)
        assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 1
    with Store(tmp_path, resume=True) as out:
        assert len(out.events) == 1


def test_a_newer_report_is_refused_and_an_older_one_read(tmp_path):
    report = json.loads(dump_report(full()))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(DataError, match="use a newer fastmodel"):
        load_report(path)
    assert load_report(Path(__file__).with_name("report_schema_1.json")).schema_version == 1


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
