"""The files of a run: raw samples as they come, and a report that is readable at any moment.

`samples.jsonl` gets one line for every window and epoch, on disk before the next is measured.
`report.json` is replaced as a whole after each stage, marked incomplete until the end; `report.md` and
`report.html` are drawn from the same record.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pydantic

from fastmodel.errors import DataError, InputError
from fastmodel.harness.records import Epoch, Report, Window

_REPORT = pydantic.TypeAdapter(Report)
_SAMPLE = pydantic.TypeAdapter(Window | Epoch)


class Store:
    """The output folder of one run; a context manager.

    Raises:
        InputError: the folder cannot be made or written, found out before anything is run.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._samples = (directory / "samples.jsonl").open("w", encoding="utf-8")
            with tempfile.TemporaryFile(dir=directory):
                pass
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot write to {directory} ({reason}); pass --out DIR") from error

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._samples.close()

    def append(self, sample: Window | Epoch, **labels: str) -> None:
        """Put one raw sample on disk, with labels that say what it belongs to."""
        line = {
            "kind": type(sample).__name__.lower(),
            **labels,
            **_SAMPLE.dump_python(sample, mode="json"),
        }
        self._samples.write(json.dumps(line) + "\n")
        self._samples.flush()
        os.fsync(self._samples.fileno())

    def write(self, report: Report) -> None:
        """Replace report.json."""
        write_atomically(self.directory / "report.json", dump_report(report))

    def write_files(self, files: Mapping[str, str]) -> None:
        """Replace the given files, name to text."""
        for name, text in files.items():
            write_atomically(self.directory / name, text)


def dump_report(report: Report) -> str:
    """The report as JSON, the same everywhere: report.json and --json."""
    return _REPORT.dump_json(report, indent=2).decode() + "\n"


def load_report(path: Path) -> Report:
    """Read a report.json, or the one in a folder.

    Raises:
        DataError: there is none, or it is not a report of this version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        return _REPORT.validate_json(file.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {file} ({error.strerror}); give a report.json") from error
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{file} is not a report of this version ({place}: {first['msg']}); run the bench again"
        ) from error


def write_atomically(path: Path, text: str) -> None:
    """Write beside `path`, flush to disk, then rename: readers see the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
