"""The command line: arguments in, harness calls, exit codes; nothing else.

Exit codes: 0 done; 1 slower than `compare --fail-below` allows; 2 bad arguments or data, said in one
line; 3 the correctness gate failed; 130 interrupted. `profile` hands on the exit code of the
script that it ran.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

import click

from fastmodel import env
from fastmodel.commands.bench import bench
from fastmodel.commands.compare import SlowerError, compare
from fastmodel.commands.optimize import optimize
from fastmodel.commands.profile import profile
from fastmodel.commands.report import report
from fastmodel.commands.shared import console, json_option
from fastmodel.errors import FastmodelError, GateError
from fastmodel.harness import tables
from fastmodel.harness.doctor import diagnose

EXIT_SLOWER = 1
EXIT_BAD_ARGUMENTS = 2
EXIT_GATE_FAILED = 3
EXIT_INTERRUPTED = 130


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
        console().print(tables.doctor_table(facts))


@cli.command()
@json_option
def kernels(as_json: bool) -> None:
    """Show the kernel table: op, pass, backend, available or why not."""
    rows = tables.kernel_rows()
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        console().print(tables.kernel_table(rows))


cli.add_command(bench)
cli.add_command(compare)
cli.add_command(report)
cli.add_command(profile)
cli.add_command(optimize)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(typed, prog_name="fastmodel", standalone_mode=False, obj=typed)
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
    return code or 0


def _fail(code: int, message: str) -> int:
    click.echo(f"fastmodel: {' '.join(message.split())}", err=True)
    return code
