"""One profile from start to end: the hooks, the phases and the telemetry around a training loop."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fastmodel.errors import InputError
from fastmodel.harness.profile.analysis import Inputs, report
from fastmodel.harness.profile.loader import LoaderWatch
from fastmodel.harness.profile.phases import Phases, Schedule
from fastmodel.harness.profile.steps import StepFinder
from fastmodel.harness.profile_records import ProfileReport
from fastmodel.harness.telemetry import PERIOD_S, Sampler, sources_for


class Session:
    """Watches the training that happens between `start` and `finish`.

    Args:
        schedule: steps of each phase.
        by_optimizer: find the steps through PyTorch's optimizer hooks; else call `step`.
        trace_file: where to put the Chrome trace of the active steps; None for none.
        period_s: of the telemetry; None for no telemetry.
        has_trials: try channels_last and autocast on copies of the script's model.
        on_done: called once the last phase has ended, from within the training loop.
        command: what was typed, for the report.
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        by_optimizer: bool = True,
        trace_file: Path | None = None,
        period_s: float | None = PERIOD_S,
        has_trials: bool = True,
        on_done: Callable[[], None] = lambda: None,
        command: Sequence[str] = (),
    ) -> None:
        self._schedule = schedule
        self._watch = LoaderWatch()
        self._phases = Phases(schedule, self._watch, trace_file, on_done)
        # Without the hooks' steps the optimizers are watched all the same: their time is a part of the step.
        self._finder = StepFinder(self.step if by_optimizer else lambda: None)
        self._by_optimizer = by_optimizer
        self._period_s, self._has_trials = period_s, has_trials
        self._command = list(command)
        self._sampler: Sampler | None = None
        self._pid = os.getpid()
        self._stack = contextlib.ExitStack()
        self._is_running = False
        self.exit_code: int | None = None
        self._duration_s = 0.0
        self._report: ProfileReport | None = None

    @property
    def is_done(self) -> bool:
        """Have all phases ended?"""
        return self._report is not None

    def start(self) -> None:
        """Begin to watch.

        Raises:
            InputError: this process is being profiled already.
        """
        if torch.autograd._profiler_enabled():
            raise InputError("profile: a profiler is running already; stop it first")
        self._started_at = datetime.datetime.now(datetime.timezone.utc)
        self._start_s = time.perf_counter()
        self._is_running = True
        self._stack.enter_context(self._watch)
        self._finder.start()
        if self._period_s is not None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            sources, missing = sources_for(device)
            self._sampler = self._stack.enter_context(Sampler(sources, self._period_s, missing))
        # A data loader's worker is a fork too; only a live session needs to hear of it.
        forked = weakref.WeakMethod(self.abandon)
        os.register_at_fork(after_in_child=lambda: (call := forked()) and call())
        self._phases.start()

    def step(self) -> None:
        """One training step has ended."""
        # In a forked child the hooks are there too, but nothing is to be written from it.
        if self._is_running and os.getpid() == self._pid:
            self._phases.step()

    def finish(self, incomplete_reason: str | None = None) -> ProfileReport:
        """Stop watching, and say what was found; the same again when called again.

        It may be called from within a step: PyTorch is going through its hooks then, so they are taken out
        by `close` only, and do nothing until then.
        """
        if self._is_running:
            self._is_running = False
            self._phases.finish()
            self._stack.close()
            self._duration_s = time.perf_counter() - self._start_s
            self._report = report(
                Inputs(
                    found=self._phases.found,
                    steps_seen=self._phases.steps_seen,
                    boundary=self._finder.boundary if self._by_optimizer else "step() was called",
                    optimizers=self._finder.optimizers,
                    loaders=list(self._watch.loaders),
                    telemetry=None if self._sampler is None else self._sampler.telemetry,
                    started_at=self._started_at.isoformat(timespec="seconds"),
                    duration_s=self._duration_s,
                    command=self._command,
                    exit_code=self.exit_code,
                    has_trials=self._has_trials,
                    wants_trace=self._schedule.active > 0,
                    incomplete_reason=incomplete_reason,
                )
            )
        assert self._report is not None
        return self._report

    def close(self) -> None:
        """Take the hooks out."""
        self._finder.stop()

    def abandon(self) -> None:
        """Watch no longer and write nothing: this is a forked child."""
        self._is_running = False
        self._watch.__exit__()
