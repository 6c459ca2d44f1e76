"""What is done in which steps: the phases of a profile, one after the other.

wait (nothing), timed (the clock alone), look (one step under a dispatch mode), the profiler's warm-up and
active steps, control (steps on one cached batch, where data loading takes a share worth asking about).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel.errors import InputError
from fastmodel.harness.profile import trace as traces
from fastmodel.harness.profile.loader import LoaderWatch
from fastmodel.harness.profile.losses import LossCall, LossWatch
from fastmodel.harness.profile.modelled import Look, why_no_look
from fastmodel.harness.profile.sleep import SleepClock
from fastmodel.harness.profile.trace_file import LIMIT_BYTES, tidy

CONTROL_SHARE = 0.03
"""Below this share of the step, data loading gets no control run."""


@dataclass(frozen=True)
class Schedule:
    """Steps of each phase; 0 leaves a phase out. And how large a trace may grow.

    Raises:
        InputError: a negative number.
    """

    wait: int = 6
    timed: int = 20
    look: int = 1
    warmup: int = 2
    active: int = 10
    control: int = 10
    trace_limit_bytes: int = LIMIT_BYTES

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0:
                raise InputError(f"profile: {name} must not be negative, got {value}")


@dataclass
class RootCall:
    """A model that the script called, with a copy of what it was called with."""

    model: nn.Module
    args: tuple
    kwargs: dict[str, Any]


@dataclass
class Findings:
    """What the phases found; each part is None, or empty, where its phase did not come to its end."""

    times_s: list[float] = field(default_factory=list)
    """Of the timed steps."""
    loader_s: float = 0.0
    """Of the timed steps together, in the data loader."""
    look: Look | None = None
    roots: list[RootCall] = field(default_factory=list)
    losses: list[LossCall] = field(default_factory=list)
    trace: traces.Trace | None = None
    active_s: float = 0.0
    """Wall time of the active steps together."""
    asleep_s: float = 0.0
    """Of those, the main thread's sleep outside the data loader."""
    control_s: list[float] = field(default_factory=list)
    trace_file: Path | None = None
    done: dict[str, int] = field(default_factory=dict)
    """Steps by phase."""
    notes: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


class Phase:
    """A number of steps of one kind."""

    name = "wait"

    def __init__(self, steps: int, found: Findings) -> None:
        self.steps, self._found = steps, found

    def enter(self) -> None:
        """Called before the phase's first step."""

    def step(self) -> None:
        """Called after each of its steps."""

    def leave(self, completed: bool) -> None:
        """Called after the last one, or when the run ends within the phase."""


class Timed(Phase):
    """Steps that nothing disturbs."""

    name = "timed"

    def __init__(self, steps: int, found: Findings, loader: LoaderWatch) -> None:
        super().__init__(steps, found)
        self._loader = loader

    def enter(self) -> None:
        _synchronize()
        self._waited_s, self._last_s = self._loader.waited_s, time.perf_counter()

    def step(self) -> None:
        now_s = time.perf_counter()
        self._found.times_s.append(now_s - self._last_s)
        self._last_s = now_s
        self._found.loader_s = self._loader.waited_s - self._waited_s


class Looking(Phase):
    """Steps under the dispatch mode; the script's models are noted with what they are called with."""

    name = "look"

    def enter(self) -> None:
        self._call = nn.Module.__call__
        self._depth, self._mode, self._losses = 0, Look(), LossWatch()
        call, phase = self._call, self

        def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if phase._depth == 0 and torch.is_grad_enabled() and module.training:
                phase._note(module, args, kwargs)
            phase._depth += 1
            try:
                return call(module, *args, **kwargs)
            finally:
                phase._depth -= 1

        nn.Module.__call__ = noted  # type: ignore[method-assign]
        self._mode.__enter__()
        self._losses.__enter__()

    def leave(self, completed: bool) -> None:
        self._losses.__exit__(None, None, None)
        self._mode.__exit__(None, None, None)
        if completed:
            self._found.look, self._found.losses = self._mode, self._losses.calls
        nn.Module.__call__ = self._call  # type: ignore[method-assign]

    def _note(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        roots = self._found.roots
        if any(root.model is module for root in roots) or not any(
            True for _ in module.parameters()
        ):
            return
        with torch.no_grad():
            copies = pytree.tree_map_only(torch.Tensor, _copy, (args, kwargs))
        roots.append(RootCall(module, *copies))


class Profiled(Phase):
    """The profiler's warm-up and active steps."""

    name = "active"

    def __init__(
        self,
        schedule: Schedule,
        found: Findings,
        loader: LoaderWatch,
        trace_file: Path | None,
    ) -> None:
        super().__init__(schedule.warmup + schedule.active, found)
        self._warmup, self._active, self._loader = schedule.warmup, schedule.active, loader
        self._trace_file, self._trace_limit_bytes = trace_file, schedule.trace_limit_bytes
        self._count = 0

    def enter(self) -> None:
        # Without this the profiler announces itself on standard error.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        activities = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self._clock = SleepClock()
        self._profiler = torch.profiler.profile(
            activities=activities,
            record_shapes=True,
            acc_events=True,  # silences a warning about cycles, of which there is one
            schedule=torch.profiler.schedule(
                wait=0, warmup=self._warmup, active=self._active, repeat=1
            ),
            on_trace_ready=self._take,
        )
        self._profiler.start()
        self._begin()

    def step(self) -> None:
        self._count += 1
        if self._count == self.steps:
            _synchronize()  # what the last step launched belongs to it
        if self._count > self._warmup:
            self._note_clocks()
        self._profiler.step()
        if self._count == self._warmup:
            self._begin()

    def leave(self, completed: bool) -> None:
        if not completed:
            # The step that was cut short must not count: its marker ends where the profiler stops.
            self._profiler.stop()
        self._loader.sleep_clock = None

    def _begin(self) -> None:
        _synchronize()
        self._loader.sleep_clock, self._loader.slept_s = self._clock, 0.0
        self._asleep_s, self._start_s = self._clock.now_s(), time.perf_counter()

    def _note_clocks(self) -> None:
        self._found.active_s = time.perf_counter() - self._start_s
        slept_s = self._clock.now_s() - self._asleep_s
        self._found.asleep_s = max(0.0, slept_s - self._loader.slept_s)

    def _take(self, profiler: torch.profiler.profile) -> None:
        complete = self._count - self._warmup
        if complete < 1:
            return
        found = traces.read(profiler.events())
        self._found.trace = traces.Trace(found.events, found.steps[:complete])
        if self._trace_file is not None:
            profiler.export_chrome_trace(str(self._trace_file))
            note = tidy(self._trace_file, self._trace_limit_bytes)
            if note is not None:
                self._found.notes.append(note)
            self._found.trace_file = self._trace_file


class Control(Phase):
    """Steps on one cached batch; none where data loading is no matter."""

    name = "control"

    def __init__(self, steps: int, found: Findings, loader: LoaderWatch) -> None:
        super().__init__(steps, found)
        self._loader = loader

    @property
    def is_worth_it(self) -> bool:
        """Was the data loader waited for in the timed steps?"""
        total_s = sum(self._found.times_s)
        return bool(total_s) and self._found.loader_s > CONTROL_SHARE * total_s

    def enter(self) -> None:
        self._loader.cached = True
        _synchronize()
        self._last_s = time.perf_counter()

    def step(self) -> None:
        now_s = time.perf_counter()
        self._found.control_s.append(now_s - self._last_s)
        self._last_s = now_s

    def leave(self, completed: bool) -> None:
        self._loader.forget()


class Phases:
    """Goes from phase to phase as the steps come; `finish` at the end of the run, wherever that is."""

    def __init__(
        self,
        schedule: Schedule,
        loader: LoaderWatch,
        trace_file: Path | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.found = Findings()
        self.steps_seen = 0
        self._on_done = on_done
        self._phases: list[Phase] = [
            Phase(schedule.wait, self.found),
            Timed(schedule.timed, self.found, loader),
            Looking(schedule.look, self.found),
        ]
        if schedule.active:
            self._phases.append(Profiled(schedule, self.found, loader, trace_file))
        self._control = Control(schedule.control, self.found, loader)
        self._phases.append(self._control)
        self._current: Phase | None = None
        self._count = 0

    @property
    def current(self) -> str:
        """Name of the phase that runs now; "" before the first and after the last."""
        return self._current.name if self._current is not None else ""

    def start(self) -> None:
        """Enter the first phase."""
        self._next()

    def step(self) -> None:
        """One step has ended."""
        self.steps_seen += 1
        phase = self._current
        if phase is None:
            return
        phase.step()
        self._count += 1
        self.found.done[phase.name] = self._count
        if self._count >= phase.steps:
            phase.leave(completed=True)
            self._next()

    def finish(self) -> None:
        """The run has ended; a phase that is under way keeps what it has."""
        phase, self._current = self._current, None
        if phase is not None:
            phase.leave(completed=False)

    def _next(self) -> None:
        self._current, self._count = None, 0
        while self._phases:
            phase = self._phases.pop(0)
            if phase.steps == 0 or not self._may_enter(phase):
                continue
            self._current = phase
            phase.enter()
            return
        self._on_done()

    def _may_enter(self, phase: Phase) -> bool:
        if phase is self._control and not self._control.is_worth_it:
            return False
        if isinstance(phase, Looking) and (reason := why_no_look()) is not None:
            self.found.missing["modelled"] = reason
            return False
        return True


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone()


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
