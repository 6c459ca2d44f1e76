"""What a part of the GPU's run leaves: a JSON file that is whole after every line.

Standard library alone: the runner reads these too.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA_VERSION = 1
_DIGITS = 6


@dataclass
class Line:
    """One piece of work, ours against PyTorch's best arm."""

    work: str
    case: str
    median_ms: dict[str, float] = field(default_factory=dict)
    """By arm; ours are "auto" and the names of backends."""
    best_torch: str | None = None
    """PyTorch's arm with the smallest median, Liger's among them where it is installed."""
    ratio: tuple[float, float, float] | None = None
    """PyTorch's best time over auto's, with its 95 % interval: above 1 we are faster."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """By arm: the most memory allocated during a call beyond what it was given."""
    gb_per_s: float | None = None
    tflop_per_s: float | None = None
    """Of auto, by the bytes and FLOPs that the work must at least have."""
    figures: dict[str, float] = field(default_factory=dict)
    """What goals speak of."""
    goals: list[str] = field(default_factory=list)
    """What must be shown, in words, each with whether it was."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms that were not timed, and why."""
    error: str | None = None
    """Why there are no figures."""
    times_ms: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Part:
    """One part of the run."""

    name: str
    title: str
    status: str = "running"
    """ "running", "done", "overran", "failed" or "skipped"; and why in `reason`."""
    reason: str = ""
    wall_s: float | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, float] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Replace the file by what is known now."""
        document = {"schema_version": SCHEMA_VERSION, **rounded(asdict(self))}
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def read(path: Path) -> dict[str, Any] | None:
    """What `Part.write` wrote; None if there is nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None


def rounded(value: Any) -> Any:
    """No digit that means nothing; what is not finite as None, which JSON has."""
    if isinstance(value, float):
        is_finite = value == value and abs(value) != float("inf")
        return float(f"{value:.{_DIGITS}g}") if is_finite else None
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item) for item in value]
    return value
