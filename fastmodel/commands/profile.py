"""`fastmodel profile`: where a step of an unchanged script goes, and what to change."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from fastmodel.commands.shared import console, json_option
from fastmodel.harness.profile import Schedule
from fastmodel.harness.profile_job import HTML_NAME, Settings, dump_profile, profile_script
from fastmodel.harness.profile_tables import profile_tables

MANY_STEPS = 100_000
"""As many steps are timed where there is no profiler's turn to come."""


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="SCRIPT names a module, as in python -m.")
@click.option("--wait", type=click.IntRange(min=0), default=6, show_default=True)
@click.option("--timed", type=click.IntRange(min=0), default=20, show_default=True)
@click.option("--warmup", type=click.IntRange(min=0), default=2, show_default=True)
@click.option("--active", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--control",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Steps on one cached batch, where data loading holds up the step.",
)
@click.option("--trace", "has_trace", is_flag=True, help="Write trace.json, for ui.perfetto.dev.")
@click.option(
    "--trace-limit-mb",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
)
@click.option(
    "--telemetry-only", is_flag=True, help="No profiler: time the steps, sample the hardware."
)
@click.option("--no-telemetry", is_flag=True)
@click.option("--period-s", type=click.FloatRange(min=0.01), default=0.1, show_default=True)
@click.option("--no-trials", is_flag=True, help="Do not try channels_last and autocast.")
@click.option("--stop", is_flag=True, help="End the script once the profile is there.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: reports/profile-<script>/.")
@json_option
@click.argument("target", metavar="SCRIPT")
@click.argument("arguments", metavar="[ARGS]...", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def profile(
    typed: list[str],
    is_module: bool,
    wait: int,
    timed: int,
    warmup: int,
    active: int,
    control: int,
    has_trace: bool,
    trace_limit_mb: float,
    telemetry_only: bool,
    no_telemetry: bool,
    period_s: float,
    no_trials: bool,
    stop: bool,
    out: Path | None,
    as_json: bool,
    target: str,
    arguments: tuple[str, ...],
) -> int:
    """Run the training script SCRIPT as it is, and say where a step goes and what to change.

    Steps are found through PyTorch's optimizer hooks. Options stand before SCRIPT, the script's own
    after it; the exit code is the script's.
    """
    limit = round(trace_limit_mb * 1e6)
    schedule = Schedule(wait, timed, 1, warmup, active, control, trace_limit_bytes=limit)
    if telemetry_only:
        schedule = Schedule(wait, timed=MANY_STEPS, look=0, active=0, control=0)
    settings = Settings(
        schedule,
        has_trace=has_trace,
        period_s=None if no_telemetry else period_s,
        has_trials=not no_trials,
        stop=stop,
        command=["fastmodel", *typed],
    )
    directory = out or Path("reports", f"profile-{Path(target).stem}")
    with _stdout_for_json() if as_json else contextlib.nullcontext():
        report, ending = profile_script(
            target,
            arguments,
            directory,
            settings,
            is_module,
            say=lambda text: click.echo(text, err=True),
        )
    if report is not None:  # else this is a process that the script forked
        if as_json:
            click.echo(dump_profile(report), nl=False)
        else:
            console().print(*profile_tables(report), sep="\n\n")
            click.echo(f"profile: {directory / HTML_NAME}")
        if report.incomplete_reason is not None:
            click.echo(f"fastmodel: incomplete: {report.incomplete_reason}", err=True)
    if ending.signal is not None and report is not None:
        _end_by(ending.signal)
    return ending.exit_code


@contextlib.contextmanager
def _stdout_for_json() -> Iterator[None]:
    """What the script writes to standard output goes to standard error, its children's too."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _end_by(number: int) -> None:
    """End as the script would have ended without us: by that signal."""
    sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
