"""The table at the end of `make gpu`, from the files that its parts left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from plan import Step, limit_s
from records import read


def plan_lines(steps: Sequence[Step], budget_s: float) -> Iterator[str]:
    """The parts, and how long each may take if none before it saves time."""
    left_s = budget_s
    for index, step in enumerate(steps):
        own_s = limit_s(step, steps[index + 1 :], left_s)
        left_s -= own_s
        yield f"{step.name:14} {own_s:4.0f} s  {step.title}"


def table(results: Path, steps: Sequence[Step]) -> Iterator[str]:
    """A line for each part, and under it one for each of its works."""
    for step in steps:
        part = read(results / f"{step.name}.json")
        if part is None:
            yield f"{step.name}: not run"
            continue
        reason = f": {part['reason']}" if part["reason"] else ""
        wall = "" if part["wall_s"] is None else f" in {part['wall_s']:.0f} s"
        yield f"{step.name}: {part['status']}{wall}{reason}"
        yield from (f"    {note}" for note in part["notes"])
        if part["ceilings"]:
            found = ", ".join(f"{name} {value:.0f}" for name, value in part["ceilings"].items())
            yield f"    ceilings: {found}"
        for line in part["lines"]:
            yield from _of_line(line)


def _of_line(line: dict[str, Any]) -> Iterator[str]:
    name = f"{line['work']} {line['case']}".strip()
    if line["error"]:
        yield f"  {name}: {line['error']}"
        return
    times = ", ".join(f"{arm} {value:.3g}" for arm, value in line["median_ms"].items())
    rates = [
        f"{line[key]:.0f} {unit}"
        for key, unit in (("gb_per_s", "GB/s"), ("tflop_per_s", "TFLOP/s"))
        if line[key]
    ]
    ratio = ""
    if line["ratio"]:
        value, low, high = line["ratio"]
        ratio = f"; {value:.2f} [{low:.2f}, {high:.2f}] times {line['best_torch']}"
    yield f"  {name}: ms: {times}{ratio}{''.join(f'; {rate}' for rate in rates)}"
    yield from (f"      {goal}" for goal in line["goals"])
    yield from (f"      no {arm}: {why}" for arm, why in line["left_out"].items())
