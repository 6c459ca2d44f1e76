"""A report folded from the events of a run: what was measured so far, readable at any moment.

The same fold serves a run while it works, a run that is taken up again, and a report that is drawn anew
from its journal: there is one way from raw results to a report.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence

from fastmodel.errors import DataError
from fastmodel.harness import journal, measure, records
from fastmodel.harness.cost import NO_RATE, with_cost
from fastmodel.harness.environment import environment
from fastmodel.harness.records import (
    CostRate,
    Electricity,
    Epoch,
    Gate,
    Report,
    SwapRow,
    Window,
)
from fastmodel.harness.telemetry import Reading
from fastmodel.harness.tokens import with_tokens
from fastmodel.harness.training import time_to_accuracy
from fastmodel.harness.workloads.arms import Arm
from fastmodel.harness.workloads.protocol import Options, Workload, parameter_count
from fastmodel.harness.workloads.recipe import recipe_of
from fastmodel.timing import RESAMPLES

_RUN_FIELDS = (
    *("test_accuracy", "test_loss", "train_time_s"),
    *("peak_memory_bytes", "energy_j", "telemetry"),
)
_CUT_OFF = "the run was cut off; go on with --resume"


def started(
    workload: Workload,
    options: Options,
    timing: measure.Timing,
    arms: Sequence[Arm],
    rate: CostRate | None,
    electricity: Electricity | None,
    command: Sequence[str],
) -> journal.Started:
    """The first event of a run that is about to begin here."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return journal.Started(
        schema_version=records.SCHEMA_VERSION,
        started_at=now.isoformat(timespec="seconds"),
        command=list(command),
        environment=environment(),
        workload=_workload_info(workload, options),
        timing=timing,
        arms=[journal.ArmInfo(arm.name, arm.description, arm.is_optimized) for arm in arms],
        cost_rate=rate,
        electricity=electricity,
    )


class Draft:
    """Takes the events of a run, in their order; `report` puts together what there is."""

    def __init__(self, start: journal.Started) -> None:
        self.start = start
        self.gate: Gate | None = None
        self.windows: list[Window] = []
        self.steps: measure.Steps | None = None
        self.ended: dict[str, str] = {}
        """Phase to the reason for its end."""
        self.roof: journal.RoofMeasured | None = None
        self.profiled: dict[str, journal.Profiled] = {}
        self.trained: dict[str, journal.Trained] = {}
        self.failures: dict[str, str] = {}
        self.is_finished = False
        self.explained: journal.Explained | None = None
        self._lost: set[str] = set()
        """Arms that failed in the timing."""
        self._swaps: list[SwapRow] = []
        self._startup_time_s: dict[str, float] = {}
        self._untrained_losses: dict[str, float | None] = {}
        self._epochs: dict[str, dict[int, Epoch]] = {}
        self._stopped_because = _CUT_OFF
        self._untrained_reason = "the run ended before this arm was trained"
        self._duration_s = 0.0

    def take(self, event: journal.Event, at_s: float) -> None:
        """One more event, `at_s` seconds after the run began."""
        self._duration_s = max(self._duration_s, at_s)
        match event:
            case journal.Gated():
                self.gate = event.gate
            case journal.Swapped():
                self._swaps = event.rows
            case journal.Explained():
                self.explained = event
            case journal.StartedUp():
                self._startup_time_s.setdefault(event.arm, event.time_s)
            case journal.WindowChosen():
                self.steps = measure.Steps(event.steps, event.warmup_steps)
            case Window():
                self.windows.append(event)
            case journal.PhaseEnded():
                self.ended[event.phase] = event.reason
            case journal.RoofMeasured():
                self.roof = event
            case journal.Profiled():
                self.profiled[event.arm] = event
            case journal.TrainingBegan():
                self._untrained_losses[event.arm] = event.validation_loss
            case journal.EpochEnded():
                self._epochs.setdefault(event.arm, {})[event.epoch.epoch] = event.epoch
            case journal.Trained():
                self.trained[event.arm] = event
            case journal.Failed():
                self._fail(event)
            case journal.Stopped():
                self._stopped_because = event.reason
            case journal.Resumed():
                self._stopped_because = _CUT_OFF
            case journal.Finished():
                self.is_finished = True
                self._untrained_reason = event.untrained_reason

    @property
    def optimized(self) -> str:
        """The arm whose speed-up is sought."""
        return next(arm.name for arm in self.start.arms if arm.is_optimized)

    @property
    def baseline(self) -> str | None:
        """The fastest of the baselines; None before all were timed."""
        if "calibration" not in self.ended:
            return None
        return measure.best_baseline(self.windows, self._lost)

    def rounds(self, phase: str) -> int:
        """The number of the first round of `phase` that has no window yet."""
        return max((w.pair + 1 for w in self.windows if w.phase == phase), default=0)

    def _fail(self, event: journal.Failed) -> None:
        was_baseline = event.arm == self.baseline
        self.failures[event.arm] = event.reason
        if not event.in_timing:
            return
        self._lost.add(event.arm)
        if was_baseline:  # what was paired with it must be paired with another
            self.ended.pop("paired", None)
            self.ended.pop("noise", None)

    def report(self, incomplete_reason: str | None = None) -> Report:
        """The record of all that is known now.

        Without a reason it is complete if the run came to its end, else incomplete for the reason that
        its last event gives.
        """
        if incomplete_reason is None and not self.is_finished:
            incomplete_reason = self._stopped_because
        missing: dict[str, str] = {}
        speedup = None
        if self.baseline is not None and "noise" in self.ended:
            speedup = measure.speedup(self.windows, self.baseline, self.optimized)
        else:
            missing["speedup"] = incomplete_reason or "not measured"
        if self.gate is None:
            missing["gate"] = incomplete_reason or "not run"
        if self.start.cost_rate is None:
            missing["cost_rate"] = NO_RATE
        waterfall = None if self.explained is None else self.explained.waterfall
        if waterfall is None:
            not_asked = "not asked for; pass --explain"
            missing["waterfall"] = not_asked if self.explained is None else self.explained.reason
        if self.roof is None:
            missing["ceilings"] = incomplete_reason or "measured by a version without a roofline"
        elif self.roof.ceilings is None:
            missing["ceilings"] = self.roof.reason
        timing = self.start.timing
        return Report(
            waterfall=waterfall,
            ceilings=None if self.roof is None else self.roof.ceilings,
            schema_version=records.SCHEMA_VERSION,
            complete=incomplete_reason is None,
            incomplete_reason=incomplete_reason,
            started_at=self.start.started_at,
            duration_s=self._duration_s,
            command=self.start.command,
            environment=self.start.environment,
            workload=self.start.workload,
            method=records.Method(
                order="ABBA",
                pairs=timing.pairs,
                steps_per_window=self.steps.window if self.steps else None,
                warmup_steps=timing.warmup_steps + (self.steps.warmup if self.steps else 0),
                bootstrap_resamples=RESAMPLES,
                half_width=timing.half_width,
                stopped=self.ended.get("paired"),
            ),
            gate=self.gate,
            speedup=speedup,
            arms={arm.name: self._arm(arm) for arm in self.start.arms},
            windows=list(self.windows),
            cost_rate=self.start.cost_rate,
            swaps=list(self._swaps),
            electricity=self.start.electricity,
            failures=dict(self.failures),
            missing=missing,
        )

    def _arm(self, arm: journal.ArmInfo) -> records.Arm:
        missing: dict[str, str] = {}
        failure = self.failures.get(arm.name)
        epochs = [epoch for _, epoch in sorted(self._epochs.get(arm.name, {}).items())]
        trained = self.trained.get(arm.name)
        test = trained.test if trained else None
        reading = trained.reading if trained else Reading(None, None, None)
        throughput = measure.throughput(self.windows, arm.name)
        if throughput is None:
            missing["throughput_samples_per_s"] = failure or (
                "the run ended before this arm was timed"
            )
        if arm.name not in self._startup_time_s:
            missing["startup_time_s"] = failure or "the run ended before this arm was built"
        if trained is None:
            missing |= dict.fromkeys(_RUN_FIELDS, failure or self._untrained_reason)
        untrained_loss = self._untrained_losses.get(arm.name)
        if untrained_loss is None:
            seen = arm.name in self._untrained_losses
            untrained = failure or self._untrained_reason
            missing["untrained_validation_loss"] = "not finite" if seen else untrained
        if not epochs:
            missing["evaluation_time_s"] = failure or self._untrained_reason
        missing |= reading.missing
        if test is not None and test.loss is None:
            missing["test_loss"] = "not finite"
        profiled = self.profiled.get(arm.name)
        if profiled is None:
            reason = failure or "the run ended before this arm was profiled"
            missing |= dict.fromkeys(("step_parts", "operators"), reason)
        elif not profiled.operators:
            missing["operators"] = profiled.why_no_operators or "no operator was seen"
        record = records.Arm(
            name=arm.name,
            description=arm.description,
            is_optimized=arm.is_optimized,
            throughput_samples_per_s=throughput,
            untrained_validation_loss=untrained_loss,
            epochs=epochs,
            test_accuracy=test.accuracy if test else None,
            test_loss=test.loss if test else None,
            time_to_accuracy_s=time_to_accuracy(epochs) if epochs else {},
            train_time_s=epochs[-1].elapsed_train_time_s if epochs and trained else None,
            startup_time_s=self._startup_time_s.get(arm.name),
            evaluation_time_s=sum(e.evaluation_time_s for e in epochs) if epochs else None,
            peak_memory_bytes=reading.peak_memory_bytes,
            energy_j=reading.energy_j,
            energy_source=reading.energy_source,
            telemetry=reading.telemetry,
            step_parts=[] if profiled is None else profiled.parts,
            operators=[] if profiled is None else profiled.operators,
            missing=missing,
        )
        workload = self.start.workload
        roof = self.roof or journal.RoofMeasured(None, "the peaks were not measured")
        record = with_tokens(record, workload, roof.ceilings, roof.reason)
        return with_cost(record, self.start.cost_rate, self.start.electricity, workload)


def replay(events: Iterable[tuple[float, journal.Event]]) -> Draft:
    """The draft that these events, which begin with `Started`, come to.

    Raises:
        DataError: they do not.
    """
    draft: Draft | None = None
    for at_s, event in events:
        if draft is None:
            if not isinstance(event, journal.Started):
                raise DataError("the journal does not begin with the start of a run")
            draft = Draft(event)
        draft.take(event, at_s)
    if draft is None:
        raise DataError("the journal is empty: nothing was measured")
    return draft


def _workload_info(workload: Workload, options: Options) -> records.WorkloadInfo:
    spec = workload.optimizer()
    arguments = ", ".join(f"{name}={value}" for name, value in spec.options.items())
    recipe = recipe_of(workload, options).describe()
    return records.WorkloadInfo(
        name=workload.name,
        description=workload.description,
        batch_size=options.batch_size,
        epochs=options.epochs,
        seed=options.seed,
        train_samples=len(workload.train),
        validation_samples=len(workload.validation),
        test_samples=len(workload.test),
        parameters=parameter_count(workload.model().parameters()),
        options={
            "optimizer": f"{spec.name}({arguments})",
            "schedule": options.schedule,
            "device": options.device,
            **({"step": recipe} if recipe else {}),
        },
        tokens_per_sample=getattr(workload, "tokens_per_sample", None),
        flops_per_sample=getattr(workload, "flops_per_sample", None),
        bytes_per_target=getattr(workload, "bytes_per_target", None),
    )
