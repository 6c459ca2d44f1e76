"""Two installations timed in turns: this one behind other interpreters, and stand-ins with a clock."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import pytest

import fastmodel
from fastmodel import cli
from fastmodel.errors import ArmFailedError, InputError
from fastmodel.harness import measure
from fastmodel.harness import side_by_side as module
from fastmodel.harness.compare import NEW, OLD
from fastmodel.harness.side_by_side import side_by_side
from fastmodel.harness.workloads import Options
from fastmodel.progress import SilentProgress
from fastmodel.timing import mean_ratio

from . import crashing_workload

SOURCE = f"{Path(crashing_workload.__file__)}:make"
OPTIONS = Options(batch_size=32)


@pytest.fixture
def installation(tmp_path):
    """Makes an interpreter that finds the tested package, and runs some lines before anything else."""

    def make(name: str, lines: str = "") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(lines)
        paths = f"{folder}:{Path(fastmodel.__file__).parent.parent}"
        python = folder / "python"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={paths} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return python

    return make


def run(old: Path, new: Path, **more):
    return side_by_side(old, new, SOURCE, OPTIONS, SilentProgress(), 3, 0.05, **more)


def test_each_session_starts_both_interpreters_anew(installation, tmp_path):
    mark = "import pathlib; pathlib.Path(__file__).with_name('starts').open('a').write('x')"
    found = run(installation("one", mark), installation("other", mark))
    assert [(tmp_path / name / "starts").read_text() for name in ("one", "other")] == ["xxx"] * 2
    assert len(found.sessions) == 3 and found.gate is None
    for session in found.sessions:
        assert session.ratios and all(ratio > 0 for ratio in session.ratios)
        assert session.step_time_s[OLD] > 0 and session.step_time_s[NEW] > 0


def test_what_is_no_installation_is_said(installation, tmp_path):
    broken = installation("broken", "import sys; sys.modules['fastmodel'] = None")
    with pytest.raises(InputError, match=r"nothing is no Python interpreter of an installation"):
        run(broken, tmp_path / "nothing")
    with pytest.raises(InputError, match="2 sessions tell no spread; time at least 3"):
        side_by_side(broken, broken, SOURCE, OPTIONS, SilentProgress(), 2)
    with pytest.raises(ArmFailedError, match="ModuleNotFoundError"):
        run(broken, broken)


@pytest.fixture
def stand_ins(tmp_path, monkeypatch):
    """Children whose clock goes on by the step, as many ms as the interpreter is called; their ends."""
    events, passed_s = [], [0.0]

    class Runner:
        def __init__(self, name, source, options, python):
            self._name = python.name
            self._step_time_s = float(python.name) / 1e3
            events.append(f"start {self._name}")

        def run(self, steps):
            passed_s[0] += steps * self._step_time_s

        def rewind(self):
            pass

        def close(self):
            events.append(f"end {self._name}")

    def clock(device):
        return passed_s[0]

    monkeypatch.setattr(module, "IsolatedRunner", Runner)
    monkeypatch.setattr(module, "ThreadPoolExecutor", InTurns)
    monkeypatch.setattr(module, "interleave", functools.partial(module.interleave, clock=clock))
    monkeypatch.setattr(module, "now_s", clock)
    monkeypatch.setattr(measure, "now_s", clock)
    for name in ("1", "2"):
        (tmp_path / name).touch()
    return events


class InTurns:
    """A pool of no threads."""

    def __init__(self, _):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    map = staticmethod(map)


def test_either_starts_first_in_turns_and_all_children_end(stand_ins, tmp_path):
    found = run(tmp_path / "1", tmp_path / "2", fail_below=0.9)
    assert found.ratio.estimate == pytest.approx(0.5) and not found.gate.passed
    for session in found.sessions:
        assert session.step_time_s == {OLD: pytest.approx(1e-3), NEW: pytest.approx(2e-3)}
        assert mean_ratio(session.ratios).value == pytest.approx(0.5)
    assert [e for e in stand_ins if e.startswith("start")] == [f"start {name}" for name in "122112"]
    assert sorted(stand_ins[:4]) == ["end 1", "end 2", "start 1", "start 2"]
    assert len(stand_ins) == 12


def test_the_command_prints_the_sessions_and_its_exit_code_is_the_gates(
    stand_ins, tmp_path, capsys
):
    typed = ["compare", str(tmp_path / "1"), str(tmp_path / "2"), "--side-by-side", SOURCE]
    typed += ["--sessions", "3", "--session-s", "0.05", "--fail-below", "0.9"]
    assert cli.main(typed) == cli.EXIT_SLOWER
    out, err = capsys.readouterr()
    assert "gate FAILED" in out and "speed new / old" in out and "lies below 0.9" in err
    assert cli.main([*typed, "--json"]) == cli.EXIT_SLOWER
    written = json.loads(capsys.readouterr().out)
    assert len(written["sessions"]) == 3 and written["gate"]["passed"] is False
    assert all(session["ratios"] for session in written["sessions"])
    typed[1:3] = reversed(typed[1:3])
    assert cli.main(typed) == 0
    assert cli.main([*typed, "--allow-unlike"]) == cli.EXIT_BAD_ARGUMENTS
