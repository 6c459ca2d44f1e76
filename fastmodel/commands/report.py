"""`fastmodel report`: reports drawn again from raw results, and several of them on one page."""

from __future__ import annotations

from pathlib import Path

import click

from fastmodel.errors import InputError
from fastmodel.harness import loggers, rebuild


@click.command()
@click.argument("directories", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Default: the run's own folder; reports/comparison for several.",
)
@click.option(
    "--log",
    "log",
    multiple=True,
    type=click.Choice(list(loggers.LOGGERS)),
    help="Write the figures of one run for this tool too; may be given again.",
)
def report(directories: tuple[Path, ...], out: Path | None, log: tuple[str, ...]) -> None:
    """Draw the report of a run again from its raw results; of several, one page that compares them.

    DIRECTORIES are folders of runs, or report.json files.
    """
    loggers.check(log)
    if len(directories) == 1:
        path = directories[0]
        folder = out or (path if path.is_dir() else path.parent)
        found = rebuild.rebuild(path)
        rebuild.write_report(found, folder)
        for name, written in loggers.write(found, folder, log).items():
            click.echo(f"{name}: {written}")
        click.echo(f"report: {folder / 'report.html'}")
        return
    if log:
        raise InputError("--log takes one run; give one folder")
    folder = out or Path("reports", "comparison")
    rebuild.write_comparison(rebuild.labelled(directories), folder)
    click.echo(f"side by side: {folder / 'index.html'}")
