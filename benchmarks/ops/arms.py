"""What runs against what: an arm does one pass of one case, ours or PyTorch's.

Every arm gets the same values; a contest also holds the answer in float64 that each arm must give before it
is timed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

import fastmodel as fm
from fastmodel.ops import table

AUTO = "auto"
"""The arm that is judged: fastmodel as it dispatches by itself."""


@dataclass(frozen=True)
class Arm:
    """One way to do the pass."""

    call: Callable[[], object]
    """The pass, once: what is timed."""
    answer: Callable[[], Sequence[Tensor]]
    """What `Contest.expected` is compared with."""
    is_ours: bool = False
    scope: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    """Entered around a window of calls."""

    def window(self, calls: int) -> None:
        """`calls` passes in a row."""
        with self.scope():
            for _ in range(calls):
                self.call()


@dataclass(frozen=True)
class Contest:
    """The arms of one pass of one case."""

    arms: dict[str, Arm]
    expected: list[Tensor]
    """In float64."""
    depth: int
    """Terms in the longest sum; for `fastmodel.ops.case.tolerance`."""
    flops: int
    size_bytes: int
    """What the pass must at least move."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Arms that do not take part, and why."""


def ours(op: str, make: Callable[[], tuple[Callable, Callable]]) -> dict[str, Arm]:
    """`auto` and one arm for each backend with an available row for every pass.

    Args:
        op: its name in the kernel table.
        make: gives a fresh (call, answer).
    """
    backends = {AUTO: None, **{name: name for name in _backends(op)}}
    return {
        name: Arm(*make(), is_ours=True, scope=functools.partial(fm.use_backend, backend))
        for name, backend in backends.items()
    }


def compiled(call: Callable) -> Callable:
    """torch.compile of one shape. It compiles in the first calls, those that check the numbers."""
    return torch.compile(call, dynamic=False)


def _backends(op: str) -> list[str]:
    rows = [row for row in table.ROWS if row.op == op]
    passes = {row.pass_ for row in rows}
    return [
        name
        for name in table.BACKENDS
        if name != "reference"  # the definition; nobody means it to be fast
        and passes == {row.pass_ for row in rows if row.backend == name and row.available}
    ]
