"""What the commands share: the JSON option, and standard output."""

from __future__ import annotations

import click
import rich.console

_TABLE_WIDTH = 120

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")


def console() -> rich.console.Console:
    """Standard output; where it is no terminal, a fixed width that no table is cut at."""
    found = rich.console.Console()
    return found if found.is_terminal else rich.console.Console(width=_TABLE_WIDTH)
