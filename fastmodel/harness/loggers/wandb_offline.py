"""A Weights & Biases run, offline: `wandb sync` sends it, if and when the user wants to."""

from __future__ import annotations

import importlib.util
import os
import warnings
from pathlib import Path

from fastmodel.harness.loggers.figures import figures, of_epochs
from fastmodel.harness.records import Report


def missing() -> bool:
    """Is the package not installed?"""
    return importlib.util.find_spec("wandb") is None


def write(report: Report, directory: Path) -> Path:
    """One run: curves by epoch under "<arm>/", the figures as its summary, the job as its config."""
    import wandb

    is_ours_alone = wandb.run is None
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
        x_disable_stats=True,
        reinit="create_new",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own, about its dependencies
        run = wandb.init(
            project="fastmodel",
            name=report.workload.name,
            dir=os.fspath(directory),
            mode="offline",
            config={
                "workload": report.workload.name,
                "batch_size": report.workload.batch_size,
                "seed": report.workload.seed,
                **report.workload.options,
                "cpu": report.environment.cpu_model,
                "gpus": report.environment.gpus,
                "torch": report.environment.torch_version,
            },
            settings=settings,
        )
        by_epoch: dict[int, dict[str, float]] = {}
        for arm in report.arms.values():
            for epoch, values in of_epochs(arm):
                named = {f"{arm.name}/{name}": value for name, value in values.items()}
                by_epoch.setdefault(epoch, {}).update(named)
        for epoch, row in sorted(by_epoch.items()):
            run.log(row, step=epoch)
        for one in figures(report):
            run.summary[f"{one.arm}/{one.name}" if one.arm else one.name] = one.value
        run.finish()
        if is_ours_alone:
            wandb.teardown()  # waits for the process that writes the file
    return directory / "wandb"
