"""The records of a profile: where a step went, what bounds it, what to do. No behaviour.

`profile.json` is a `ProfileReport`. A value that could not be read is None, and the record's `missing`
says why, keyed by the field's name. Times are of one step, in seconds, unless the name says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from fastmodel.harness.records import Environment, Missing, StepPart
from fastmodel.harness.roofline_records import Ceilings, OperatorRow
from fastmodel.harness.telemetry_records import Telemetry

PROFILE_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Phases:
    """How many steps each phase took, in the order in which they ran."""

    wait: int = 0
    timed: int = 0
    """Untouched but for the step's own hook; the step's time comes from these."""
    look: int = 0
    """Run under a dispatch mode that writes down every operator: slow, and not timed."""
    warmup: int = 0
    active: int = 0
    """Under the profiler."""
    control: int = 0
    """On one cached batch, without the data loader."""


@dataclass(frozen=True)
class StepTime:
    """Time of a step without the profiler."""

    median_s: float
    low_s: float
    """5 % of the steps were faster."""
    high_s: float
    """5 % of the steps were slower."""
    steps: int
    loader_s: float
    """Of the mean step, inside the DataLoader's iterator."""


@dataclass(frozen=True)
class SyncPoint:
    """A line that waits for a tensor's value."""

    where: str
    """path:line of the caller."""
    operator: str
    code: str
    calls: float
    """A step."""
    time_s: float | None
    missing: Missing = field(default_factory=dict)


@dataclass(frozen=True)
class Advice:
    """Something to change, and what it is estimated to gain."""

    name: str
    title: str
    action: str
    """What to write."""
    target: str
    """Pieces of advice on the same target exclude one another."""
    where: list[str]
    gain_s: float
    gain_share: float
    """Of the step's time without the profiler."""
    speedup: float
    """Of the whole step."""
    how: str
    """How the gain was estimated, with the figures that went in."""
    evidence: str
    includes: list[str] = field(default_factory=list)
    """Targets of other pieces of advice, of which this one is the whole."""


@dataclass(frozen=True)
class Estimate:
    """All the best pieces of advice of one sort, taken together."""

    advice: list[str]
    step_s: float
    speedup: float
    leaves_out: str = ""


@dataclass(frozen=True)
class ProfileReport:
    """One profiled run."""

    schema_version: int
    complete: bool
    incomplete_reason: str | None
    started_at: str
    duration_s: float
    command: list[str]
    exit_code: int | None
    """The script's own; None for a profile taken from within, or while the script still runs."""
    environment: Environment
    device: str
    phases: Phases
    steps_seen: int
    step_boundary: str
    step_time: StepTime | None
    profiled_step_s: float | None
    """Of the active steps, by the wall clock."""
    classes: list[StepPart]
    """Every microsecond of the active steps in one class; they add up to `profiled_step_s`."""
    kinds: list[StepPart]
    """The same time by what was computed: convolution forward, pool backward, ..."""
    operators: list[OperatorRow]
    ceilings: Ceilings | None
    sync_points: list[SyncPoint]
    advice: list[Advice]
    """Largest gain first."""
    estimate: Estimate | None
    """Everything that fastmodel itself would replace, together."""
    telemetry: Telemetry | None
    trace_file: str | None = None
    trace_bytes: int | None = None
    notes: list[str] = field(default_factory=list)
    missing: Missing = field(default_factory=dict)
