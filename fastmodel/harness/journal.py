"""What happened in a run, one event after the other: the raw results that every report is made from.

`samples.jsonl` holds an event a line, in the order in which they happened: `kind` names its class below,
`at_s` the seconds since the run began, the rest are its fields. Reports are folded from these events and
from nothing else (`draft.py`), so that a run that was cut off can go on, and a report can be drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

from fastmodel.errors import DataError
from fastmodel.harness.measure import Timing
from fastmodel.harness.records import (
    CostRate,
    Electricity,
    Environment,
    Epoch,
    Gate,
    StepPart,
    SwapRow,
    Waterfall,
    Window,
    WorkloadInfo,
)
from fastmodel.harness.roofline_records import Ceilings, OperatorRow
from fastmodel.harness.telemetry import Reading
from fastmodel.harness.training import Test

JOURNAL = "samples.jsonl"


@dataclass(frozen=True)
class ArmInfo:
    """An arm that the run means to measure."""

    name: str
    description: str
    is_optimized: bool


@dataclass(frozen=True)
class Started:
    """The first line: what is to be done, and on what."""

    schema_version: int
    started_at: str
    command: list[str]
    environment: Environment
    workload: WorkloadInfo
    timing: Timing
    arms: list[ArmInfo]
    cost_rate: CostRate | None
    electricity: Electricity | None = None


@dataclass(frozen=True)
class Resumed:
    """The run goes on after it was cut off."""

    started_at: str
    command: list[str]


@dataclass(frozen=True)
class Gated:
    """The correctness gate has judged."""

    gate: Gate


@dataclass(frozen=True)
class Swapped:
    """The plan of the optimized arm."""

    rows: list[SwapRow]


@dataclass(frozen=True)
class Explained:
    """The waterfall of the measured selection, or why there is none."""

    waterfall: Waterfall | None
    reason: str


@dataclass(frozen=True)
class StartedUp:
    """An arm was built and has done its first step."""

    arm: str
    time_s: float


@dataclass(frozen=True)
class WindowChosen:
    """How many steps every window has, and the warm-up before the windows of an arm."""

    steps: int
    warmup_steps: int


@dataclass(frozen=True)
class PhaseEnded:
    """All windows of a phase are timed."""

    phase: str
    reason: str


@dataclass(frozen=True)
class RoofMeasured:
    """What the machine reaches at most, or why that could not be measured."""

    ceilings: Ceilings | None
    reason: str = ""


@dataclass(frozen=True)
class Profiled:
    """Where an arm's step spends its time."""

    arm: str
    parts: list[StepPart]
    operators: list[OperatorRow] = field(default_factory=list)
    why_no_operators: str = "the run was profiled by a version that did not look at operators"


@dataclass(frozen=True)
class TrainingBegan:
    """The validation loss before an arm's first step; None where it is not finite."""

    arm: str
    validation_loss: float | None


@dataclass(frozen=True)
class EpochEnded:
    """An epoch of an arm's training run; one that is trained again replaces it."""

    arm: str
    epoch: Epoch


@dataclass(frozen=True)
class Trained:
    """An arm's training run has ended."""

    arm: str
    test: Test
    reading: Reading


@dataclass(frozen=True)
class Failed:
    """An arm could not be run; one that failed in the timing is no baseline."""

    arm: str
    reason: str
    in_timing: bool = False


@dataclass(frozen=True)
class Stopped:
    """The run ended before its end."""

    reason: str


@dataclass(frozen=True)
class Finished:
    """The run is complete; `untrained_reason` says why some arms were not trained."""

    untrained_reason: str


Event = (
    Started
    | Resumed
    | Gated
    | Swapped
    | Explained
    | StartedUp
    | WindowChosen
    | Window
    | PhaseEnded
    | RoofMeasured
    | Profiled
    | TrainingBegan
    | EpochEnded
    | Trained
    | Failed
    | Stopped
    | Finished
)

_KINDS: dict[str, pydantic.TypeAdapter] = {
    kind.__name__: pydantic.TypeAdapter(kind) for kind in Event.__args__
}


def dump_event(event: Event, at_s: float) -> str:
    """One line, without its end."""
    kind = type(event).__name__
    fields = _KINDS[kind].dump_python(event, mode="json")
    return json.dumps({"kind": kind, "at_s": at_s, **fields})


def read_journal(path: Path) -> tuple[list[tuple[float, Event]], int]:
    """The events of a run with their times, and the bytes that whole lines take.

    A last line without its end was being written when the run was killed: it is left out.

    Raises:
        DataError: the file cannot be read, or a line in it is no event of this version.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); name a run's folder") from error
    size_bytes = content.rfind(b"\n") + 1
    return list(_events(path, content[:size_bytes])), size_bytes


def _events(path: Path, content: bytes) -> Iterator[tuple[float, Event]]:
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            fields = json.loads(line)
            yield float(fields.pop("at_s")), _KINDS[fields.pop("kind")].validate_python(fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: line {number} is no event of this version; run the bench anew"
            ) from error
