"""Where one training step ends: found through PyTorch's hooks on every optimizer's step.

With one optimizer a step ends when its `step` returns; gradient accumulation and an LBFGS closure need
nothing more. With several, the steps of the first rounds are watched: the step ends with the optimizer that
steps least often, and among equals with the one that was the last to appear (the generator's, say, after the
discriminator's). An optimizer that calls another one's step counts as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from fastmodel.harness.profile.trace import OPTIMIZER

LEARNING_CALLS = 6
"""Calls of any optimizer's step that are watched before the boundary is chosen."""


class StepFinder:
    """Calls `on_step` at the end of each training step, from the thread that trains."""

    def __init__(self, on_step: Callable[[], None]) -> None:
        self._on_step = on_step
        self._running: list[FrameType] = []
        """Frames of the steps that have begun, the outermost first."""
        self._seen: list[int] = []
        self._names: dict[int, str] = {}
        self._optimizers: dict[int, torch.optim.Optimizer] = {}
        self._boundary: int | None = None
        self._handles: list[Any] = []
        self._range: Any = None

    @property
    def boundary(self) -> str:
        """What ends a step, in words."""
        if not self._names:
            return "no optimizer has stepped"
        names = list(self._names.values())
        if self._boundary is None or len(names) == 1:
            return f"{names[0]}.step"
        return f"{self._names[self._boundary]}.step, one of {len(names)} optimizers"

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """Those that have stepped, in the order of their first step."""
        return list(self._optimizers.values())

    def start(self) -> None:
        """Begin to listen."""
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]

    def stop(self) -> None:
        """Listen no longer."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        caller = sys._getframe(1)
        # A step that raised never came to its end: what is no caller of this one is over.
        while self._running and not _is_below(caller, self._running[-1]):
            self._running.pop()
        self._running.append(caller)
        if len(self._running) == 1:
            self._range = torch.autograd.profiler.record_function(OPTIMIZER)
            self._range.__enter__()

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        caller = sys._getframe(1)
        if caller in self._running:
            del self._running[self._running.index(caller) :]
        if self._running:
            return
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        key = id(optimizer)
        if key not in self._names:
            self._names[key] = type(optimizer).__name__
            self._optimizers[key] = optimizer
        if self._boundary is None:
            self._seen.append(key)
            # Until enough was seen, each call of the first optimizer counts as a step.
            if len(self._seen) >= LEARNING_CALLS:
                self._boundary = boundary_of(self._seen)
            if key == (self._boundary or self._seen[0]):
                self._on_step()
        elif key == self._boundary:
            self._on_step()


def _is_below(frame: FrameType | None, outer: FrameType) -> bool:
    """Was this frame called by the other one, however far up?"""
    while frame is not None:
        if frame is outer:
            return True
        frame = frame.f_back
    return False


def boundary_of(calls: Sequence[int]) -> int:
    """Which optimizer ends a step, from the order of the calls: the rarest, the last to appear of equals."""
    order = list(dict.fromkeys(calls))
    return min(reversed(order), key=calls.count)
