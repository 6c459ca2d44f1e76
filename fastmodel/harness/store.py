"""The files of a run: raw results as they come, and a report that is readable at any moment.

`samples.jsonl` gets one line for every event, on disk before the next thing is measured: whatever
happens, at most the current window is lost. `report.json` is replaced as a whole after each stage, marked
incomplete until the end; `report.md` and `report.html` are drawn from the same record.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import pydantic

from fastmodel.errors import DataError, InputError, StorageError
from fastmodel.harness.journal import JOURNAL, Event, dump_event, read_journal
from fastmodel.harness.records import SCHEMA_VERSION, Report
from fastmodel.timing import now_s

_REPORT = pydantic.TypeAdapter(Report)


class Store:
    """The output folder of one run; a context manager.

    With `resume` the events that are there are kept, in `events`, and further ones appended. A journal
    that is not there yet, or holds nothing, is as good as a new one.

    Raises:
        InputError: the folder cannot be made or written, or another run is at work in it; found out
            before anything is run.
        DataError: the journal to resume is no journal of this version.
    """

    def __init__(self, directory: Path, resume: bool = False) -> None:
        self.directory = directory
        self.events: list[tuple[float, Event]] = []
        journal = directory / JOURNAL
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = _open_locked(journal)
            with tempfile.TemporaryFile(dir=directory) as probe:
                probe.write(b"\n")
        except BlockingIOError as error:
            message = f"another run is writing to {directory}; pass another --out DIR"
            raise InputError(message) from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot write to {directory} ({reason}); pass --out DIR") from error
        try:
            self._size_bytes = 0
            if resume:
                self.events, self._size_bytes = read_journal(journal)
            self._cut()
        except BaseException:
            self._file.close()
            raise
        self._start_s = now_s() - (self.events[-1][0] if self.events else 0.0)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, event: Event) -> float:
        """Put an event on disk; returns the seconds since the run began, breaks not counted.

        Raises:
            StorageError: it cannot be written; what was written before is whole.
        """
        at_s = now_s() - self._start_s
        line = (dump_event(event, at_s) + "\n").encode()
        try:
            self._file.write(line)
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._cut()
            raise StorageError.of(self.directory / JOURNAL, error) from error
        self._size_bytes += len(line)
        return at_s

    def write(self, report: Report) -> None:
        """Replace report.json.

        Raises:
            StorageError: it cannot be written; the former one is left as it was.
        """
        write_atomically(self.directory / "report.json", dump_report(report))

    def write_files(self, files: Mapping[str, str]) -> None:
        """Replace the given files, name to text.

        Raises:
            StorageError: one cannot be written; it is left as it was.
        """
        for name, text in files.items():
            write_atomically(self.directory / name, text)

    def checkpoint(self, arm: str) -> Path:
        """Where the training run of `arm` keeps its state, so that it can go on."""
        return self.directory / f".training-{''.join(c if c.isalnum() else '_' for c in arm)}.pt"

    def _cut(self) -> None:
        """Leave whole lines alone in the journal."""
        self._file.truncate(self._size_bytes)
        self._file.seek(self._size_bytes)


def _open_locked(journal: Path) -> BinaryIO:
    """The journal, unbuffered, for this process alone until it is closed."""
    file = os.fdopen(os.open(journal, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def dump_report(report: Report) -> str:
    """The report as JSON, the same everywhere: report.json and --json."""
    return _REPORT.dump_json(report, indent=2).decode() + "\n"


def load_report(path: Path) -> Report:
    """Read a report.json, or the one in a folder; older versions are read as well.

    Raises:
        DataError: there is none, or it is not a report of a version that is known.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = _REPORT.validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {file} ({error.strerror}); give a report.json") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{file} is not a report of this version ({place}: {first['msg']}); run the bench again"
        ) from error
    if report.schema_version > SCHEMA_VERSION:
        raise DataError(
            f"{file} is of version {report.schema_version}, newer than {SCHEMA_VERSION}, the newest "
            "that this fastmodel knows; use a newer fastmodel"
        )
    return report


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, then rename: readers see the old file or the new one.

    Raises:
        StorageError: it cannot be written; nothing is left behind.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise StorageError.of(path, error) from error
        raise
