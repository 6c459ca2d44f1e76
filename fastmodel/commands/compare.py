"""`fastmodel compare`: two reports, or two installations timed in turns, and a gate for CI."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import pydantic

from fastmodel.commands.shared import console, json_option
from fastmodel.errors import InputError
from fastmodel.harness import tables
from fastmodel.harness.compare import Comparisons, SideBySide, Verdict
from fastmodel.harness.compare import compare as compare_reports
from fastmodel.harness.side_by_side import (
    FEWEST_SESSIONS,
    SESSION_TIME_S,
    SESSIONS,
    side_by_side,
)
from fastmodel.harness.store import load_report
from fastmodel.harness.workloads import Options, registry
from fastmodel.progress import progress_for


class SlowerError(Exception):
    """The gate of `compare` has failed."""


@click.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fail-below",
    type=click.FloatRange(0, 10, min_open=True),
    help="Exit 1 if new / old is below this with its whole 95 % interval; 0.99 for CI, side by side.",
)
@click.option("--allow-unlike", is_flag=True, help="Hold unlike environments against each other.")
@click.option(
    "--side-by-side",
    "workload",
    metavar="WORKLOAD",
    help="OLD and NEW are the Python interpreters of two installations; time this workload in both.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="Of --side-by-side. Default: the workload's."
)
@click.option(
    "--data", type=click.Path(path_type=Path), help="Of --side-by-side: the data set's folder."
)
@click.option(
    "--sessions", type=click.IntRange(FEWEST_SESSIONS), default=SESSIONS, show_default=True
)
@click.option(
    "--session-s",
    type=click.FloatRange(0, 600, min_open=True),
    default=SESSION_TIME_S,
    show_default=True,
    help="Seconds of timing in each session, in which both installations start anew.",
)
@json_option
def compare(
    old: Path,
    new: Path,
    fail_below: float | None,
    allow_unlike: bool,
    workload: str | None,
    batch_size: int | None,
    data: Path | None,
    sessions: int,
    session_s: float,
    as_json: bool,
) -> None:
    """Show what differs between the reports OLD and NEW (report.json, or its folder)."""
    found: Comparisons | SideBySide
    if workload is None:
        found = compare_reports(load_report(old), load_report(new), fail_below, allow_unlike)
        table = tables.comparison_table(found)
    else:
        if allow_unlike:
            raise InputError("--allow-unlike is for reports; side by side runs on one machine")
        options = Options(batch_size=batch_size or registry.batch_size(workload), data=data)
        with progress_for(sys.stderr) as progress:
            found = side_by_side(
                old, new, workload, options, progress, sessions, session_s, fail_below
            )
        table = tables.side_by_side_table(found)
    if as_json:
        click.echo(pydantic.TypeAdapter(type(found)).dump_json(found, indent=2))
    else:
        console().print(table)
    _pass(found.gate)


def _pass(gate: Verdict | None) -> None:
    if gate is not None and not gate.passed:
        raise SlowerError(gate.reason)
