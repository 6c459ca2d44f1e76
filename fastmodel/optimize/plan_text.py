"""A plan as text: what `print(fm.plan_of(model))` shows."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastmodel.optimize.evidence import Measurement, Verification

if TYPE_CHECKING:
    from fastmodel.optimize.plan import Place, Plan, Pulled

_VERDICT_WIDTH = 60
_EVIDENCE = ("PyTorch ms", "ours ms", "ratio [95 %]", "error (bound)")


def text_of(plan: Plan) -> str:
    """The whole plan, without a line's trailing blanks."""
    head = f"plan: {len(plan.swaps)} swapped, {len(plan.left)} left; "
    head += f"selection: {plan.selection}; capture: {plan.capture}"
    parts = [head]
    if plan.verdict:
        parts += textwrap.wrap(plan.verdict, 100)
    if plan.swaps:
        parts += ["", "swapped", *_places(plan.swaps)]
    if plan.left:
        parts += ["", "left", *_places(plan.left)]
    if plan.levers:
        parts += ["", "levers", *_levers(plan.levers)]
    if plan.contributions:
        rows = [(c.name, *_times(c.measurement)) for c in plan.contributions]
        header = ("without", "that step ms", "whole ms", "it adds [95 %]")
        parts += ["", "contributions, by leaving one out", *table(header, rows)]
    return "\n".join(parts)


def _places(places: Sequence[Place]) -> list[str]:
    header = ("site", "pattern", "replacement", "input", *_EVIDENCE, "verdict")
    rows = [
        (
            place.site or "(model)",
            place.pattern,
            place.replacement or "-",
            "-" if place.shape is None else "x".join(map(str, place.shape)),
            *_times(place.measurement),
            _error(place.verification),
            place.reason,
        )
        for place in places
    ]
    return table(header, rows)


def _levers(levers: Sequence[Pulled]) -> list[str]:
    header = ("lever", "in use", *_EVIDENCE, "verdict")
    rows = [
        (
            lever.name,
            "yes" if lever.is_pulled else "no",
            *_times(lever.measurement),
            _error(lever.verification),
            lever.reason,
        )
        for lever in levers
    ]
    return table(header, rows)


def _times(found: Measurement | None) -> tuple[str, str, str]:
    if found is None:
        return ("-", "-", "-")
    return (f"{found.torch_time_s * 1e3:.3f}", f"{found.time_s * 1e3:.3f}", str(found))


def _error(found: Verification | None) -> str:
    return "-" if found is None else f"{found.worst.error:.1e} ({found.worst.bound:.1e})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows under one another, each column as wide as its widest value; the last one is wrapped.

    Columns that no row fills are left out.
    """
    kept = [
        column
        for column in range(len(header))
        if column in (0, len(header) - 1) or any(row[column] != "-" for row in rows)
    ]
    lines_of = [[row[column] for column in kept] for row in (header, *rows)]
    widths = [max(len(row[column]) for row in lines_of) for column in range(len(kept) - 1)]
    lines = []
    for *cells, last in lines_of:
        lead = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        first, *rest = textwrap.wrap(last, _VERDICT_WIDTH) or [""]
        lines.append(f"  {lead}  {first}".rstrip())
        lines += [" " * (len(lead) + 4) + line for line in rest]
    return lines
