"""`fastmodel optimize`: what of a workload's training step can be faster here, as a plan."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import torch

from fastmodel.commands.shared import json_option
from fastmodel.errors import InputError
from fastmodel.harness import selection
from fastmodel.harness.workloads import Options, registry
from fastmodel.progress import progress_for


@click.command()
@click.argument("workload", default="mnist-cnn")
@click.option("--save", type=click.Path(path_type=Path), help="Write the plan as JSON.")
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: PyTorch's.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option(
    "--budget-s",
    type=click.FloatRange(min=0, min_open=True),
    default=selection.BUDGET_S,
    show_default=True,
    help="Most seconds to take, about.",
)
@click.option(
    "--min-gain",
    type=click.FloatRange(0, 10),
    default=selection.MIN_GAIN,
    show_default=True,
    help="What a lever must certainly gain, 0.02 is 2 %.",
)
@click.option("--explain", is_flag=True, help="Measure what each lever adds, leaving one out.")
@json_option
def optimize(
    workload: str,
    save: Path | None,
    batch_size: int,
    seed: int,
    threads: int | None,
    data: Path | None,
    budget_s: float,
    min_gain: float,
    explain: bool,
    as_json: bool,
) -> None:
    """Measure what wins in the training step of WORKLOAD, and show the plan.

    WORKLOAD is one of `fastmodel bench --list` or path/to/file.py:make_workload. A saved plan is applied with
    fm.optimize(model, inputs, plan=PATH).
    """
    if save is not None and not save.parent.is_dir():
        raise InputError(f"--save {save}: there is no folder {save.parent}; make it first")
    if threads is not None:
        torch.set_num_threads(threads)
    options = Options(batch_size=batch_size, seed=seed, data=data)
    job = registry.make(workload, options)
    with progress_for(sys.stderr) as progress:
        plan = selection.select(
            job, options, progress, budget_s=budget_s, min_gain=min_gain, explain=explain
        )
    if save is not None:
        plan.save(save)
    click.echo(plan.to_json() if as_json else str(plan))
    if save is not None and not as_json:
        click.echo(f"plan: {save}")
