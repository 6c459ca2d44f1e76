"""The command line: arguments in, harness calls, exit codes; nothing else.

Exit codes: 0 done; 1 slower than `compare --fail-below` allows; 2 bad arguments or data, said in one
line; 3 the correctness gate failed; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pydantic
import rich.console
import torch

from fastmodel import env
from fastmodel.errors import FastmodelError, GateError, InputError
from fastmodel.harness import bench as bench_job
from fastmodel.harness import tables
from fastmodel.harness.compare import Comparisons
from fastmodel.harness.compare import compare as compare_reports
from fastmodel.harness.cost import check_electricity, resolve_rate
from fastmodel.harness.doctor import diagnose
from fastmodel.harness.measure import Timing
from fastmodel.harness.store import Store, dump_report, load_report
from fastmodel.harness.workloads import SCHEDULES, Options, registry
from fastmodel.progress import progress_for

EXIT_SLOWER = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_GATE_FAILED = 3
EXIT_INTERRUPTED = 130

_TABLE_WIDTH = 120
_BUDGET_S = 120.0
_MOST_PAIRS = 1_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(env.VERSION, prog_name="fastmodel")
def cli() -> None:
    """Fused kernels, measured selection and an honest harness for PyTorch training."""


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Show the machine, what is built, what is missing and how to get it."""
    facts = diagnose()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _console().print(tables.doctor_table(facts))


@cli.command()
@json_option
def kernels(as_json: bool) -> None:
    """Show the kernel table: op, pass, backend, available or why not."""
    rows = tables.kernel_rows()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _console().print(tables.kernel_table(rows))


@cli.command()
@click.argument("workload", default="mnist-cnn")
@click.option("--epochs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Default: the workload's.")
@click.option("--schedule", type=click.Choice(SCHEDULES), default="none", show_default=True)
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
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: reports/<workload>/.")
@click.option("--resume", is_flag=True, help="Go on with the run in --out that was cut off.")
@click.option("--rate-usd-per-h", type=float, help="What this machine costs.")
@click.option("--instance", help="A machine of the price list, c5.large for instance.")
@click.option("--electricity-usd-per-kwh", type=float, help="Price of the energy that was read.")
@click.option("--grid-g-per-kwh", type=float, help="Grams of CO2 equivalent by the kWh.")
@json_option
@click.pass_obj
def bench(
    typed: list[str],
    workload: str,
    epochs: int,
    batch_size: int,
    seed: int,
    lr: float | None,
    schedule: str,
    device: str,
    threads: int | None,
    pairs: int,
    half_width: float | None,
    budget_s: float | None,
    window_s: float,
    train: str,
    with_compile: bool,
    data: Path | None,
    out: Path | None,
    resume: bool,
    rate_usd_per_h: float | None,
    instance: str | None,
    electricity_usd_per_kwh: float | None,
    grid_g_per_kwh: float | None,
    as_json: bool,
) -> None:
    """Train WORKLOAD as plain PyTorch and with fastmodel, and report both.

    WORKLOAD is mnist-cnn or path/to/file.py:make_workload.
    """
    rate = resolve_rate(rate_usd_per_h, instance)
    electricity = check_electricity(electricity_usd_per_kwh, grid_g_per_kwh)
    timing = _timing(pairs, half_width, budget_s, window_s)
    _check_device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    options = Options(batch_size, epochs, seed, lr, schedule, data, device)
    job = registry.make(workload, options)
    settings = bench_job.Settings(
        timing=timing,
        train=train,
        with_compile=with_compile,
        source=workload,
        rate=rate,
        electricity=electricity,
        command=["fastmodel", *typed],
    )
    directory = out or Path("reports", registry.folder_name(workload))
    with Store(directory, resume) as store, progress_for(sys.stderr) as progress:
        report = bench_job.Bench(job, options, settings, store, progress).run()
    if as_json:
        click.echo(dump_report(report), nl=False)
    else:
        _console().print(tables.bench_table(report))
        click.echo(f"report: {directory / 'report.html'}")


@cli.command()
@click.argument("old", type=click.Path(path_type=Path))
@click.argument("new", type=click.Path(path_type=Path))
@click.option(
    "--fail-below",
    type=click.FloatRange(0, 10, min_open=True),
    help="Exit 1 if the speed-up new / old is below this with its whole 95 % interval; 0.97 for CI.",
)
@click.option("--allow-unlike", is_flag=True, help="Hold unlike environments against each other.")
@json_option
def compare(
    old: Path, new: Path, fail_below: float | None, allow_unlike: bool, as_json: bool
) -> None:
    """Show what differs between the reports OLD and NEW (report.json, or its folder)."""
    comparisons = compare_reports(load_report(old), load_report(new), fail_below, allow_unlike)
    if as_json:
        adapter = pydantic.TypeAdapter(Comparisons)
        click.echo(adapter.dump_json(comparisons, indent=2))
    else:
        _console().print(tables.comparison_table(comparisons))
    if comparisons.gate is not None and not comparisons.gate.passed:
        raise SlowerError(comparisons.gate.reason)


class SlowerError(Exception):
    """The gate of `compare` has failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        cli.main(typed, prog_name="fastmodel", standalone_mode=False, obj=typed)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_BAD_ARGUMENTS
    except click.ClickException as error:
        return _fail(
            EXIT_BAD_ARGUMENTS, f"{error.format_message().rstrip('.')}; see fastmodel --help"
        )
    except SlowerError as error:
        return _fail(EXIT_SLOWER, str(error))
    except GateError as error:
        return _fail(EXIT_GATE_FAILED, str(error))
    except FastmodelError as error:
        return _fail(EXIT_BAD_ARGUMENTS, str(error))
    except (click.Abort, KeyboardInterrupt):
        return _fail(EXIT_INTERRUPTED, "interrupted; what was measured is in the report")
    return 0


def _fail(code: int, message: str) -> int:
    click.echo(f"fastmodel: {' '.join(message.split())}", err=True)
    return code


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


def _console() -> rich.console.Console:
    """Standard output; where it is no terminal, a fixed width that no table is cut at."""
    console = rich.console.Console()
    return console if console.is_terminal else rich.console.Console(width=_TABLE_WIDTH)
