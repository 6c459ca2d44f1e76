"""`fastmodel bench`: one workload as plain PyTorch and with fastmodel, or a sweep of such runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click
import torch

from fastmodel.commands.shared import console, json_option
from fastmodel.errors import InputError
from fastmodel.harness import bench as bench_job
from fastmodel.harness import loggers, rebuild, tables
from fastmodel.harness import sweep as sweeping
from fastmodel.harness.cost import check_electricity, prices, resolve_rate
from fastmodel.harness.measure import Timing
from fastmodel.harness.records import Report
from fastmodel.harness.report.comparison import Run
from fastmodel.harness.store import Store, dump_report
from fastmodel.harness.workloads import AUTOCAST, SCHEDULES, WORKLOADS, Options, registry
from fastmodel.progress import progress_for

_BUDGET_S = 120.0
_MOST_PAIRS = 1_000


@click.command()
@click.argument("workload", default="mnist-cnn")
@click.option("--list", "as_list", is_flag=True, help="Show the workloads and the price list.")
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help="Samples in a step. Default: the workload's, 64 where it has none.",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Default: the workload's.")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="none", show_default=True)
@click.option(
    "--accumulate",
    "accumulation",
    type=click.IntRange(min=1),
    help="Cut each batch into so many parts. Default: the workload's.",
)
@click.option(
    "--autocast",
    type=click.Choice(list(AUTOCAST)),
    help="What forward and loss run under, in every arm. Default: the workload's.",
)
@click.option(
    "--recompute",
    "recomputes",
    is_flag=True,
    help="In fastmodel's arm hold no activations that are cheap to make again: less memory.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: PyTorch's.")
@click.option("--pairs", type=click.IntRange(2, 1000), default=16, show_default=True)
@click.option(
    "--half-width",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Go on after --pairs until the 95 % interval is within this of the ratio, 0.01 is 1 %.",
)
@click.option(
    "--budget-s",
    type=click.FloatRange(min=0, min_open=True),
    help="Most seconds of paired timing that --half-width may take. Default: 120.",
)
@click.option(
    "--window-s",
    type=click.FloatRange(0, 60, min_open=True),
    default=0.5,
    show_default=True,
    help="Wanted length of a timed window in seconds.",
)
@click.option(
    "--train",
    type=click.Choice(bench_job.TRAIN_CHOICES),
    default="best",
    show_default=True,
    help="Which arms get a training run: best baseline and fastmodel, all, or none.",
)
@click.option(
    "--compile",
    "with_compile",
    is_flag=True,
    help="Add torch.compile to the baselines, in a process of its own: half a minute.",
)
@click.option(
    "--explain",
    is_flag=True,
    help="Measure what each lever of the selection adds: a minute at the most.",
)
@click.option("--sweep", help="One run each: batch_size=32,64,128 or threads=1,2, side by side.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: reports/<workload>/.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out that was cut off.")
@click.option("--rate-usd-per-h", type=float, help="What this machine costs.")
@click.option("--instance", help="A machine of the price list, c5.large for instance.")
@click.option("--prices", type=click.Path(path_type=Path), help="Your own file of prices.")
@click.option("--electricity-usd-per-kwh", type=float, help="Price of the energy that was read.")
@click.option("--grid-g-per-kwh", type=float, help="Grams of CO2 equivalent by the kWh.")
@click.option(
    "--log",
    "log",
    multiple=True,
    type=click.Choice(list(loggers.LOGGERS)),
    help="Write the figures for this tool too; may be given again.",
)
@json_option
@click.pass_obj
def bench(
    typed: list[str],
    workload: str,
    as_list: bool,
    epochs: int,
    batch_size: int | None,
    seed: int,
    lr: float | None,
    schedule: str,
    accumulation: int | None,
    autocast: str | None,
    recomputes: bool,
    device: str,
    threads: int | None,
    pairs: int,
    half_width: float | None,
    budget_s: float | None,
    window_s: float,
    train: str,
    with_compile: bool,
    explain: bool,
    sweep: str | None,
    data: Path | None,
    out: Path | None,
    resume: bool,
    rate_usd_per_h: float | None,
    instance: str | None,
    prices: Path | None,
    electricity_usd_per_kwh: float | None,
    grid_g_per_kwh: float | None,
    log: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train WORKLOAD as plain PyTorch and with fastmodel, and report both.

    WORKLOAD is one of --list or path/to/file.py:make_workload.
    """
    if as_list:
        _list(prices)
        return
    settings = bench_job.Settings(
        timing=_timing(pairs, half_width, budget_s, window_s),
        train=train,
        with_compile=with_compile,
        source=workload,
        rate=resolve_rate(rate_usd_per_h, instance, prices),
        electricity=check_electricity(electricity_usd_per_kwh, grid_g_per_kwh),
        command=["fastmodel", *typed],
        explains=explain,
    )
    swept = None if sweep is None else sweeping.parse(sweep)
    loggers.check(log)
    _check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    if batch_size is None:
        batch_size = registry.batch_size(workload)
    options = Options(
        batch_size, epochs, seed, lr, schedule, data, device, accumulation, autocast, recomputes
    )
    directory = out or Path("reports", registry.folder_name(workload))
    if swept is None:
        report = _run(options, settings, directory, resume, log)
        if as_json:
            click.echo(dump_report(report), nl=False)
        else:
            console().print(tables.bench_table(report))
            click.echo(f"report: {directory / 'report.html'}")
        return
    if as_json:
        raise InputError("--sweep writes a report.json for every run; leave out --json")
    runs = []
    for value in swept.values:
        if swept.name == "threads":
            torch.set_num_threads(value)
        else:
            options = dataclasses.replace(options, batch_size=value)
        report = _run(options, settings, directory / swept.folder(value), resume, log)
        runs.append(Run(f"{swept.name.replace('_', ' ')} {value}", report))
        console().print(tables.bench_table(report))
        rebuild.write_comparison(
            runs, directory
        )  # after each, so that a later failure loses nothing
    click.echo(f"side by side: {directory / 'index.html'}")


def _run(
    options: Options,
    settings: bench_job.Settings,
    directory: Path,
    resume: bool,
    log: tuple[str, ...],
) -> Report:
    assert settings.source is not None
    job = registry.make(settings.source, options)
    with Store(directory, resume) as store, progress_for(sys.stderr) as progress:
        report = bench_job.Bench(job, options, settings, store, progress).run()
        for name, path in loggers.write(report, directory, log).items():
            progress.say(f"{name}: {path}")
    return report


def _list(own: Path | None) -> None:
    descriptions = {name: factory.description for name, factory in WORKLOADS.items()}
    console().print(tables.workload_table(descriptions))
    console().print(tables.price_table(prices(own)))


def _timing(
    pairs: int, half_width: float | None, budget_s: float | None, window_s: float
) -> Timing:
    if half_width is None:
        if budget_s is not None:
            raise InputError("--budget-s limits --half-width; pass that too")
        return Timing(pairs=pairs, window_time_s=window_s)
    budget_s = _BUDGET_S if budget_s is None else budget_s
    return Timing(
        pairs=pairs,
        window_time_s=window_s,
        half_width=half_width,
        max_pairs=max(pairs, _MOST_PAIRS),
        budget_s=budget_s,
    )


def _check_device(device: str) -> None:
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"--device {device!r} is no device; use cpu, cuda or cuda:N") from error
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device {device!r} is not supported; use cpu, cuda or cuda:N")
    index = torch.device(device).index or 0
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise InputError(
            f"--device {device}: PyTorch sees {torch.cuda.device_count()} CUDA devices"
        )
