"""Reports from what runs have left on disk: one drawn again, or several on one page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fastmodel.errors import InputError
from fastmodel.harness import report as rendering
from fastmodel.harness.draft import replay
from fastmodel.harness.journal import JOURNAL, read_journal
from fastmodel.harness.records import Report
from fastmodel.harness.report import comparison
from fastmodel.harness.report.comparison import Run
from fastmodel.harness.store import dump_report, load_report, write_atomically


def rebuild(path: Path) -> Report:
    """The report of a run's folder, from its raw results; from its report.json where those are not there.

    Raises:
        DataError: neither is there or readable.
    """
    if path.is_dir() and (path / JOURNAL).exists():
        events, _ = read_journal(path / JOURNAL)
        return replay(events).report()
    return load_report(path)


def labelled(paths: Sequence[Path]) -> list[Run]:
    """Each run under as much of its path as tells it from the others.

    Raises:
        InputError: a path is given twice.
        DataError: one is no run.
    """
    resolved = [path.resolve() for path in paths]
    if len(set(resolved)) < len(resolved):
        raise InputError("a run is given twice; name each folder once")
    common = os.path.commonpath([path.parent for path in resolved])
    names = [os.path.relpath(path, common).removesuffix(".json") for path in resolved]
    return [Run(name, rebuild(path)) for name, path in zip(names, paths, strict=True)]


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md and report.html into `folder`.

    Raises:
        InputError: the folder cannot be made.
        StorageError: a file cannot be written.
    """
    _make(folder)
    write_atomically(folder / "report.json", dump_report(report))
    write_atomically(folder / "report.md", rendering.render_markdown(report))
    write_atomically(folder / "report.html", rendering.render_html(report))


def write_comparison(runs: Sequence[Run], folder: Path) -> None:
    """Write index.md and index.html, the runs side by side, into `folder`.

    Raises:
        InputError: the folder cannot be made.
        StorageError: a file cannot be written.
    """
    _make(folder)
    write_atomically(folder / "index.md", comparison.render_markdown(runs))
    write_atomically(folder / "index.html", comparison.render_html(runs))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder} ({error.strerror}); pass --out DIR") from error
