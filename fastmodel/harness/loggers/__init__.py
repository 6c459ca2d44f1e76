"""A report's figures for other tools: TensorBoard, Weights & Biases, OpenMetrics and CSV.

Each writes what a `Report` holds into a folder and measures nothing; none sends anything anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastmodel.errors import InputError
from fastmodel.harness.records import Report

from . import csv_file, openmetrics, tensorboard, wandb_offline

LOGGERS: dict[str, Callable[[Report, Path], Path]] = {
    "csv": csv_file.write,
    "openmetrics": openmetrics.write,
    "tensorboard": tensorboard.write,
    "wandb": wandb_offline.write,
}


def check(names: tuple[str, ...]) -> None:
    """Refuse what cannot be written, before anything is run.

    Raises:
        InputError: a logger's package is not installed.
    """
    for name, needs in (("tensorboard", tensorboard.missing()), ("wandb", wandb_offline.missing())):
        if name in names and needs:
            raise InputError(f"--log {name} needs a package: pip install 'fastmodel[{name}]'")


def write(report: Report, directory: Path, names: tuple[str, ...]) -> dict[str, Path]:
    """Write `report` for each of these tools; name to the file or folder that was written."""
    return {name: LOGGERS[name](report, directory) for name in names}


__all__ = ["LOGGERS", "check", "write"]
