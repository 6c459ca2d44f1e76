"""A report in the making: what was measured so far, readable as a `Report` at any moment."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from fastmodel.harness import measure, records
from fastmodel.harness.cost import NO_RATE, with_cost
from fastmodel.harness.environment import environment
from fastmodel.harness.records import CostRate, Epoch, Gate, Report, StepPart, SwapRow, Window
from fastmodel.harness.telemetry import Reading
from fastmodel.harness.training import time_to_accuracy
from fastmodel.harness.workloads.arms import Arm
from fastmodel.harness.workloads.protocol import Options, Workload, parameter_count
from fastmodel.timing import RESAMPLES, now_s

_RUN_FIELDS = ("test_accuracy", "test_loss", "train_time_s", "peak_memory_bytes", "energy_j")


@dataclass(frozen=True)
class Test:
    """The one look at the test set."""

    __test__ = False  # the name is no invitation to pytest

    loss: float | None
    accuracy: float


class Draft:
    """Collects the parts of a report; `report` puts together what there is."""

    def __init__(
        self,
        workload: Workload,
        options: Options,
        timing: measure.Timing,
        arms: Sequence[Arm],
        rate: CostRate | None,
        command: Sequence[str],
    ) -> None:
        self.stage = "starting"
        self.gate: Gate | None = None
        self.swaps: list[SwapRow] = []
        self.windows: list[Window] = []
        self.steps_per_window: int | None = None
        self.baseline: str | None = None
        self.noise_is_measured = False
        self.step_parts: dict[str, list[StepPart]] = {}
        self.epochs: dict[str, list[Epoch]] = {}
        self.tests: dict[str, Test] = {}
        self.readings: dict[str, Reading] = {}
        self.untrained_reason = "the run ended before this arm was trained"
        self._arms = arms
        self._timing = timing
        self._rate = rate
        self._command = list(command)
        self._started_at = datetime.datetime.now(datetime.timezone.utc)
        self._start_s = now_s()
        self._environment = environment()
        self._workload = _workload_info(workload, options)

    @property
    def optimized(self) -> str:
        """The arm whose speed-up is sought."""
        return next(arm.name for arm in self._arms if arm.is_optimized)

    def report(self, incomplete_reason: str | None) -> Report:
        """The record of all that is known now; complete if there is no reason why not."""
        missing: dict[str, str] = {}
        speedup = None
        if self.baseline is not None and self.noise_is_measured:
            speedup = measure.speedup(self.windows, self.baseline, self.optimized)
        else:
            missing["speedup"] = incomplete_reason or "not measured"
        if self.gate is None:
            missing["gate"] = incomplete_reason or "not run"
        if self._rate is None:
            missing["cost_rate"] = NO_RATE
        return Report(
            schema_version=records.SCHEMA_VERSION,
            complete=incomplete_reason is None,
            incomplete_reason=incomplete_reason,
            started_at=self._started_at.isoformat(timespec="seconds"),
            duration_s=now_s() - self._start_s,
            command=self._command,
            environment=self._environment,
            workload=self._workload,
            method=records.Method(
                order="ABBA",
                pairs=self._timing.pairs,
                steps_per_window=self.steps_per_window,
                warmup_steps=self._timing.warmup_steps,
                bootstrap_resamples=RESAMPLES,
            ),
            gate=self.gate,
            speedup=speedup,
            arms={arm.name: self._arm(arm) for arm in self._arms},
            windows=list(self.windows),
            cost_rate=self._rate,
            swaps=list(self.swaps),
            missing=missing,
        )

    def _arm(self, arm: Arm) -> records.Arm:
        missing: dict[str, str] = {}
        epochs = list(self.epochs.get(arm.name, []))
        test, reading = self.tests.get(arm.name), self.readings.get(arm.name)
        throughput = measure.throughput(self.windows, arm.name)
        if throughput is None:
            missing["throughput_samples_per_s"] = "the run ended before this arm was timed"
        if test is None or reading is None:
            missing |= dict.fromkeys(_RUN_FIELDS, self.untrained_reason)
        if reading is not None:
            missing |= reading.missing
        if test is not None and test.loss is None:
            missing["test_loss"] = "not finite"
        if arm.name not in self.step_parts:
            missing["step_parts"] = "the run ended before this arm was profiled"
        is_trained = test is not None
        record = records.Arm(
            name=arm.name,
            description=arm.description,
            is_optimized=arm.is_optimized,
            throughput_samples_per_s=throughput,
            epochs=epochs,
            test_accuracy=test.accuracy if test else None,
            test_loss=test.loss if test else None,
            time_to_accuracy_s=time_to_accuracy(epochs) if epochs else {},
            train_time_s=epochs[-1].elapsed_train_time_s if epochs and is_trained else None,
            peak_memory_bytes=reading.peak_memory_bytes if reading else None,
            energy_j=reading.energy_j if reading else None,
            energy_source=reading.energy_source if reading else None,
            step_parts=self.step_parts.get(arm.name, []),
            missing=missing,
        )
        return with_cost(record, self._rate, self._workload.train_samples)


def _workload_info(workload: Workload, options: Options) -> records.WorkloadInfo:
    spec = workload.optimizer()
    arguments = ", ".join(f"{name}={value}" for name, value in spec.options.items())
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
        },
    )
