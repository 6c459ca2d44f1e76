"""The receipt of `fm.optimize`: every place that was swapped, every place that was left, and why."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from torch import nn

from fastmodel.errors import InputError

ATTRIBUTE = "_fastmodel_plan"
"""Where a model carries its plan: a plain attribute, copied and pickled along, and no state."""

_REASON_WIDTH = 60


@dataclass(frozen=True)
class Place:
    """One Conv2d, Linear or pool of the model, and what became of it."""

    site: str
    """Qualified name of the module; "conv (call 2)" where one module is called more than once."""
    pattern: str
    """What stands there: "Conv2d + ReLU + MaxPool2d"."""
    replacement: str | None
    """Class of the fused module; None where the place was left."""
    shape: tuple[int, ...] | None
    """Shape of the input in the run on the example inputs; None where it was not reached."""
    reason: str
    capture: str = "none"
    """How the place was read: "sequential", "fx" or "none"."""
    figures: tuple[tuple[str, float], ...] = ()
    """Measurements behind the decision, the unit in each name; empty where a rule decided."""


@dataclass(frozen=True)
class Plan:
    """What `fm.optimize` did to a model; `print` it to read it."""

    swaps: tuple[Place, ...]
    left: tuple[Place, ...]
    selection: str
    """The strategy that decided: "static" is by rule, without a measurement."""

    @property
    def capture(self) -> str:
        """How the swapped places were read: "sequential", "fx", "sequential + fx" or "none"."""
        return " + ".join(k for k in ("sequential", "fx") if self._captured(k)) or "none"

    def _captured(self, kind: str) -> bool:
        return any(place.capture == kind for place in self.swaps)

    @property
    def reason(self) -> str:
        """Why nothing was swapped; empty where something was."""
        if self.swaps:
            return ""
        if not self.left:
            return "the model calls no Conv2d and no Linear"
        return "no place fits: " + "; ".join(dict.fromkeys(place.reason for place in self.left))

    def __str__(self) -> str:
        head = f"plan: {len(self.swaps)} swapped, {len(self.left)} left; "
        head += f"selection: {self.selection}; capture: {self.capture}"
        parts = [head]
        if self.swaps:
            parts += ["", "swapped", *_table(self.swaps)]
        if self.left:
            parts += ["", "left", *_table(self.left)]
        return "\n".join(parts)


def _table(places: tuple[Place, ...]) -> list[str]:
    """The rows under one another, each column as wide as its widest value, the reason wrapped."""
    rows = [("site", "pattern", "replacement", "input", "reason")]
    for place in places:
        shape = "-" if place.shape is None else "x".join(map(str, place.shape))
        figures = "".join(f"; {name} {value:.4g}" for name, value in place.figures)
        rows.append(
            (
                place.site or "(model)",
                place.pattern,
                place.replacement or "-",
                shape,
                place.reason + figures,
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for *cells, reason in rows:
        lead = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        first, *rest = textwrap.wrap(reason, _REASON_WIDTH) or [""]
        lines.append(f"  {lead}  {first}".rstrip())
        lines += [" " * (len(lead) + 4) + line for line in rest]
    return lines


def plan_of(model: nn.Module) -> Plan:
    """The plan that `fm.optimize` left on a model, also where it was wrapped or compiled since.

    Raises:
        InputError: no part of the model comes from `fm.optimize`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"plan_of: expected an nn.Module, got {type(model).__name__}")
    for module in model.modules():
        found = vars(module).get(ATTRIBUTE)
        if found is not None:
            return found
    raise InputError(
        f"plan_of: this {type(model).__name__} carries no plan; pass a model that fm.optimize returned"
    )
