"""What the benches found: rows, their table and their file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arms import AUTO
from ceilings import Ceilings

from fastmodel.harness.environment import environment
from fastmodel.timing import Estimate

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One pass of one case; rates are those of the `auto` arm."""

    op: str
    case: str
    pass_: str
    median_ms: dict[str, float]
    best_torch: str
    """PyTorch's arm with the smallest median."""
    ratio: Estimate
    """Its time over `auto`'s, round by round: above 1 we are faster."""
    noise: Estimate
    """`auto` over itself."""
    gflop_per_s: float
    gb_per_s: float
    flop_share: float
    """gflop_per_s over the ceiling's; above 1 where work is skipped."""
    copy_share: float
    """gb_per_s over that of a large copy; above 1 where the data stay in cache."""
    calls_a_window: int
    times_ms: dict[str, list[float]]
    """Each arm's time of one call, round by round."""
    left_out: dict[str, str]
    """Arms that were not timed, and why."""


_HEADER = ("case", "pass", "ours ms", "PyTorch ms", "its arm", "ratio [95 %]", "GFLOP/s", "GB/s")


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a readable table, and under it what was left out."""
    cells = [_HEADER, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        # Names to the left, numbers to the right.
        yield "  ".join(
            cell.ljust(width) if i in (0, 1, 4) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
    for row in rows:
        for name, reason in row.left_out.items():
            yield f"{row.op} {row.case} {row.pass_}: no {name} arm: {reason}"


def _cells(row: Row) -> tuple[str, ...]:
    ratio = row.ratio
    return (
        f"{row.op} {row.case}",
        row.pass_,
        f"{row.median_ms[AUTO]:.3f}",
        f"{row.median_ms[row.best_torch]:.3f}",
        row.best_torch,
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
        f"{row.gflop_per_s:.1f}",
        f"{row.gb_per_s:.1f}",
    )


def write(path: Path, rows: Sequence[Row], ceilings: Ceilings) -> None:
    """The rows with the machine, the versions and the commit, as JSON."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "environment": dataclasses.asdict(environment()),
        "ceilings": dataclasses.asdict(ceilings),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
