"""Runs that are killed, cut off or run out of disk: what was measured stays, and the run goes on."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import heed_interrupts, script

from fastmodel import cli
from fastmodel.errors import InputError, StorageError
from fastmodel.harness import bench, training
from fastmodel.harness.bench import Bench, Settings
from fastmodel.harness.journal import read_journal
from fastmodel.harness.measure import Timing
from fastmodel.harness.rebuild import rebuild
from fastmodel.harness.store import Store, load_report
from fastmodel.harness.workloads import Options
from fastmodel.progress import PlainProgress

from . import crashing_workload

SOURCE = f"{Path(crashing_workload.__file__)}:make"
TIMING = Timing(
    pairs=3, calibration_rounds=2, window_time_s=0.002, warmup_steps=2, warmup_time_s=0.02
)
ARGUMENTS = ["bench", SOURCE, "--pairs", "30", "--window-s", "0.01", "--epochs", "3"]
COMMAND = script("import sys; from fastmodel.cli import main; sys.exit(main())")


def start(folder: Path, *more: str, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [*prefix, *COMMAND, *ARGUMENTS, "--out", str(folder), *more],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    try:
        _, err = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    return process.returncode, err


def kill_after_lines(process: subprocess.Popen, journal: Path, lines: int, delay_s: float) -> bytes:
    """Kill -9 once the journal has so many lines, after a moment; returns what was in it just before."""
    deadline_s = time.monotonic() + 200
    while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s, "the run does not get on"
        time.sleep(0.002)
    time.sleep(delay_s)
    seen = journal.read_bytes()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return seen


def test_kill_9_at_any_moment_loses_no_window_that_was_taken(tmp_path):
    """Killed again and again at random moments, the same run goes on to its end and is complete."""
    draw = random.Random(8)
    journal = tmp_path / "samples.jsonl"
    seen = b""
    for lines in (8, 60):
        process = start(tmp_path, *(["--resume"] if seen else []))
        before = seen
        seen = kill_after_lines(process, journal, lines, draw.random() * 0.2)
        after = journal.read_bytes()
        assert after.startswith(before[: before.rfind(b"\n") + 1])
        assert after.startswith(seen[: seen.rfind(b"\n") + 1])
        events, size_bytes = read_journal(journal)
        assert len(after) - size_bytes < 10_000  # at most the line that was being written
        left = rebuild(tmp_path)
        assert not left.complete and "--resume" in left.incomplete_reason
        assert len(left.windows) == sum(type(event).__name__ == "Window" for _, event in events)
        if (tmp_path / "report.json").exists():
            assert not load_report(tmp_path).complete
    code, err = finish(start(tmp_path, "--resume"))
    assert code == 0, err
    result = load_report(tmp_path)
    assert result.complete and result == rebuild(tmp_path)
    assert result.speedup.pairs == 30
    assert len(result.arms["fastmodel"].epochs) == 3
    assert journal.read_bytes().startswith(seen[: seen.rfind(b"\n") + 1])
    assert not list(tmp_path.glob(".training-*"))


@pytest.fixture
def job(blobs, stand_ins, tmp_path):
    options = Options(batch_size=8, epochs=3)

    def job(resume=False, **settings):
        with Store(tmp_path, resume) as store, PlainProgress(io.StringIO()) as progress:
            chosen = Settings(**({"timing": TIMING} | settings))
            return Bench(blobs, options, chosen, store, progress).run()

    return job


def kinds(folder: Path) -> list[str]:
    return [type(event).__name__ for _, event in read_journal(folder / "samples.jsonl")[0]]


def cut_after(folder: Path, count: int) -> None:
    lines = (folder / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "samples.jsonl").write_bytes(b"".join(lines[:count]))


def test_a_run_cut_anywhere_is_resumed_without_measuring_twice(job, tmp_path):
    whole = job()
    order = kinds(tmp_path)
    text = (tmp_path / "samples.jsonl").read_bytes()
    for count in range(1, len(order), 8):
        (tmp_path / "samples.jsonl").write_bytes(text)
        cut_after(tmp_path, count)
        result = job(resume=True)
        assert result.complete
        again = kinds(tmp_path)
        assert again[: count + 1] == [*order[:count], "Resumed"]
        assert again.count("Gated") == 1 and again.count("WindowChosen") == 1
        assert again.count("Trained") == 2 and again.count("Profiled") == 4
        assert again.count("RoofMeasured") == 1
        # A round that was cut in the middle is timed again, the others are not.
        assert 0 <= len(result.windows) - len(whole.windows) <= 3
        assert result.speedup.pairs == 3


def test_training_goes_on_where_it_was_as_if_nothing_had_happened(job, tmp_path, monkeypatch):
    whole = job()
    original = training.train

    def dying(*arguments):
        for count, epoch in enumerate(original(*arguments)):
            yield epoch
            if count == 1:
                raise RuntimeError("power cut")

    monkeypatch.setattr(training, "train", dying)
    with pytest.raises(RuntimeError, match="power cut"):
        job()
    monkeypatch.setattr(training, "train", original)
    result = job(resume=True)
    name = result.speedup.baseline
    assert [e.epoch for e in result.arms[name].epochs] == [1, 2, 3]
    for arm in (name, "fastmodel"):
        losses, expected = (
            [(e.train_loss, e.validation_loss) for e in r.arms[arm].epochs] for r in (result, whole)
        )
        if whole.arms[arm].epochs:  # the best baseline may have been another one
            assert losses == expected
    assert result.arms[name].peak_memory_bytes is None
    assert result.arms[name].missing["peak_memory_bytes"] == training.NOT_METERED
    assert result.arms["fastmodel"].peak_memory_bytes is not None


def test_a_run_that_ended_is_only_drawn_again(job, tmp_path):
    whole = job()
    windows = kinds(tmp_path).count("Window")
    (tmp_path / "report.html").unlink()
    result = job(resume=True)
    assert result.windows == whole.windows and result.speedup == whole.speedup
    assert kinds(tmp_path).count("Window") == windows
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"timing": Timing(pairs=4)}, "another timing"),
        ({"rate": bench.CostRate(1.0, "test", "here", None)}, "another rate"),
    ],
)
def test_another_run_is_not_resumed(job, tmp_path, settings, message):
    job()
    before = (tmp_path / "samples.jsonl").read_bytes()
    with pytest.raises(InputError, match=message):
        job(resume=True, **settings)
    assert (tmp_path / "samples.jsonl").read_bytes() == before


def test_a_full_disk_is_one_clear_error_and_nothing_is_corrupt(tmp_path):
    """Files may not grow beyond 20 KB: a disk that fills up while windows are timed."""
    limited = ("bash", "-c", 'trap "" XFSZ; ulimit -f 20; exec "$@"', "bash")
    code, err = finish(start(tmp_path, prefix=limited))
    assert code == cli.EXIT_BAD_ARGUMENTS
    last = err.splitlines()[-1]
    assert last.startswith("fastmodel: cannot write") and "File too large" in last
    assert "--resume" in last and "Traceback" not in err
    events, size_bytes = read_journal(tmp_path / "samples.jsonl")
    assert size_bytes == (tmp_path / "samples.jsonl").stat().st_size  # cut back to whole lines
    assert len(events) > 3
    if (tmp_path / "report.json").exists():
        json.loads((tmp_path / "report.json").read_text())
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".report")]
    code, err = finish(start(tmp_path, "--resume"))
    assert code == 0, err
    assert load_report(tmp_path).complete


def test_a_write_that_fails_is_taken_back(tmp_path, monkeypatch):
    with Store(tmp_path) as out:
        event = bench.journal.WindowChosen(3, 5)
        out.append(event)
        monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(StorageError, match=r"cannot write .*samples.jsonl \(full\)"):
            out.append(event)
        monkeypatch.undo()
        out.append(event)
    assert kinds(tmp_path) == ["WindowChosen", "WindowChosen"]


def test_a_checkpoint_that_cannot_be_written_is_said(job, tmp_path, monkeypatch):
    monkeypatch.setattr(
        training.torch, "save", lambda *_: (_ for _ in ()).throw(RuntimeError("write failed"))
    )
    with pytest.raises(StorageError, match=r"\.training-.*write failed"):
        job()
    assert not load_report(tmp_path).complete
    assert not list(tmp_path.glob(".training-*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_before_anything_is_run(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        Store(tmp_path)


def test_a_read_only_disk_is_refused_before_anything_is_run(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(InputError, match="Read-only file system"):
        Store(tmp_path)


def test_the_systems_clock_may_jump(job, monkeypatch):
    """Durations come from a monotonic clock; a jump is marked at the window that it falls into."""
    jumps = iter([0.0] * 6 + [-3600.0] * 10_000)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    result = job(train="none")
    assert result.complete and 0 < result.duration_s < 600
    assert all(0 < window.time_s < 600 for window in result.windows)
    marked = [w for w in result.windows if any("clock was set by -3600" in m for m in w.marks)]
    assert len(marked) <= 1 and result.speedup.pairs == 3
