"""What the benches found: rows, their table and their files, one an op."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arms import AUTO
from ceilings import Ceilings
from pydantic import TypeAdapter

from fastmodel.harness.environment import environment
from fastmodel.harness.records import Environment
from fastmodel.timing import Estimate

SCHEMA_VERSION = 2
_DIGITS = 5


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
    byte_share: float
    """gb_per_s over the memory's ceiling; above 1 where the data stay in cache."""
    calls_a_window: int
    times_ms: dict[str, list[float]]
    """Each arm's time of one call, round by round."""
    left_out: dict[str, str]
    """Arms that were not timed, and why."""

    @property
    def torch_arms(self) -> list[str]:
        """PyTorch's, in the order they ran."""
        return [name for name in self.median_ms if name.startswith("torch")]


@dataclass(frozen=True)
class Results:
    """The rows of one op, measured in one run."""

    schema_version: int
    environment: Environment
    ceilings: Ceilings
    rows: list[Row]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The lines of a readable table an op, and under each what was left out."""
    for op in dict.fromkeys(row.op for row in rows):
        own = [row for row in rows if row.op == op]
        names = list(dict.fromkeys(name for row in own for name in row.torch_arms))
        yield from ("", f"{op} (times in ms)")
        yield from _aligned([_header(names), *(_cells(row, names) for row in own)])
        for row in own:
            for name, reason in row.left_out.items():
                yield f"{row.case} {row.pass_}: no {name} arm: {reason}"


def write(directory: Path, rows: Sequence[Row], ceilings: Ceilings) -> list[Path]:
    """A file an op that ran, `<op>.json`, with the machine, the versions and the commit."""
    directory.mkdir(parents=True, exist_ok=True)
    where, paths = environment(), []
    for op in dict.fromkeys(row.op for row in rows):
        own = [row for row in rows if row.op == op]
        results = Results(SCHEMA_VERSION, where, ceilings, own)
        path = directory / f"{op}.json"
        path.write_text(_dump(dataclasses.asdict(results)), encoding="utf-8")
        paths.append(path)
    return paths


def load(path: Path) -> Results:
    """What `write` wrote."""
    return TypeAdapter(Results).validate_json(path.read_bytes())


def _header(names: Sequence[str]) -> tuple[str, ...]:
    rates = ("GFLOP/s", "of peak", "GB/s", "of peak")
    return ("case", "pass", "ours", *names, "best of PyTorch", "ratio [95 %]", *rates)


def _cells(row: Row, names: Sequence[str]) -> tuple[str, ...]:
    ratio = row.ratio
    times = (f"{row.median_ms[name]:.3f}" if name in row.median_ms else "-" for name in names)
    return (
        row.case,
        row.pass_,
        f"{row.median_ms[AUTO]:.3f}",
        *times,
        row.best_torch,
        f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
        f"{row.gflop_per_s:.1f}",
        f"{row.flop_share:.0%}",
        f"{row.gb_per_s:.1f}",
        f"{row.byte_share:.0%}",
    )


def _aligned(cells: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    is_name = [heading in ("case", "pass", "best of PyTorch") for heading in cells[0]]
    for row in cells:
        yield "  ".join(
            cell.ljust(width) if left else cell.rjust(width)
            for cell, width, left in zip(row, widths, is_name, strict=True)
        ).rstrip()


def _dump(document: dict[str, Any]) -> str:
    """JSON with a list of numbers on one line, and no digit that means nothing."""
    text = json.dumps(_rounded(document), indent=1)
    return re.sub(r"\[[^][{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return value
