"""Reports from what a run has left on disk."""

from __future__ import annotations

from pathlib import Path

from fastmodel.harness.draft import replay
from fastmodel.harness.journal import JOURNAL, read_journal
from fastmodel.harness.records import Report
from fastmodel.harness.store import load_report


def rebuild(path: Path) -> Report:
    """The report of a run's folder, from its raw results; from its report.json where those are not there.

    Raises:
        DataError: neither is there or readable.
    """
    if path.is_dir() and (path / JOURNAL).exists():
        events, _ = read_journal(path / JOURNAL)
        return replay(events).report()
    return load_report(path)
