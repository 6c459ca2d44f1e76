"""The records of telemetry: what was sampled, from where, and why something was not. No behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """One quantity over time; a sample that could not be read is None."""

    name: str
    """With its unit, "gpu_power_w" for instance."""
    source: str
    is_counter: bool
    """It only rises: its difference over the window is what was used."""
    values: list[float | None]
    mean: float | None
    """Of a counter, its rise a second."""
    maximum: float | None
    total: float | None
    """Of a counter, its rise over the window."""


@dataclass(frozen=True)
class Telemetry:
    """What was sampled over one window."""

    source: str
    """Where it came from: "nvml + psutil", "psutil", "replay", ..."""
    period_s: float
    duration_s: float
    times_s: list[float]
    """Of each sample, from the start of the window."""
    series: list[Series]
    window: dict[str, float | None] = field(default_factory=dict)
    """Figures of the whole window, read as one difference: the GPM metrics."""
    facts: dict[str, str] = field(default_factory=dict)
    """What does not change: the device's name, its UUID, what "busy" means."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name of a quantity to why there is none, or none from some moment on."""
