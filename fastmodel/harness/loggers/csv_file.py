"""figures.csv: one row a figure, for spreadsheets."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from fastmodel.harness.loggers.figures import figures, of_epochs
from fastmodel.harness.records import Report
from fastmodel.harness.store import write_atomically


def write(report: Report, directory: Path) -> Path:
    """Columns: workload, arm, epoch (empty where it is none), figure, value."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["workload", "arm", "epoch", "figure", "value"])
    name = _literal(report.workload.name)
    for one in figures(report):
        rows.writerow([name, _literal(one.arm), "", one.name, repr(one.value)])
    for arm in report.arms.values():
        for epoch, values in of_epochs(arm):
            for figure, value in values.items():
                rows.writerow([name, _literal(arm.name), epoch, figure, repr(value)])
    path = directory / "figures.csv"
    write_atomically(path, text.getvalue())
    return path


def _literal(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
