"""From the profiler's events to spans with a label, and to a tree of operators."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from fastmodel.harness.profile.classes import Span, innermost

STEP = "ProfilerStep"
OPTIMIZER = "fastmodel.optimizer"
LOADER = "fastmodel.dataloader"
NODE = "autograd::engine::evaluate_function: "
"""Prefix of the event around one node of the backward pass."""

_COPIES = ("aten::copy_", "aten::_copy_from", "aten::_foreach_copy_")
_COMMUNICATION = ("nccl", "gloo", "c10d::", "mpi:", "ucc:", "record_param_comms")
_COMPILED = ("CompiledFunction", "Torch-Compiled Region", "graph_", "cpp_fused", "triton_")
_RANGE_SCOPE = 7  # torch._C._RecordScope.USER_SCOPE: record_function's


@dataclass(eq=False)
class Event:
    """One event of the host's threads or of a device; times in microseconds of the trace's clock."""

    name: str
    start_us: float
    end_us: float
    thread: int = 0
    is_device: bool = False
    is_range: bool = False
    """Made by `record_function`: a label around other things."""
    shapes: tuple[tuple[int, ...], ...] = ()
    device_us: float = 0.0
    """Of the kernels that it launched itself."""
    sequence: int = -1
    """Ties the operators of forward to their node of backward."""
    parent: Event | None = None
    children: list[Event] = field(default_factory=list)

    @property
    def time_us(self) -> float:
        return self.end_us - self.start_us


@dataclass(frozen=True)
class Trace:
    """The events of the active steps."""

    events: list[Event]
    steps: list[tuple[float, float]]
    """Start and end of each, in microseconds."""

    @property
    def window(self) -> tuple[float, float]:
        """From the first step's start to the last one's end."""
        return self.steps[0][0], self.steps[-1][1]

    @property
    def has_device(self) -> bool:
        return any(event.is_device for event in self.events)

    @property
    def main_thread(self) -> int | None:
        """The thread that the steps were marked on."""
        return next((e.thread for e in self.events if e.name.startswith(STEP)), None)

    @property
    def roots(self) -> list[Event]:
        """The outermost events of the host's threads that ran within the steps."""
        low, high = self.window
        return [
            e
            for e in self.events
            if e.parent is None and not e.is_device and in_tree(e) and low <= e.start_us < high
        ]


def read(events: Iterable[Any], mark: str = STEP) -> Trace:
    """A trace from what `torch.profiler.profile.events()` returns; `mark` begins the names of the steps."""
    found = [_event(event) for event in events if event.time_range.end >= event.time_range.start]
    marks = [e for e in found if e.name.startswith(mark) and not e.is_device]
    steps = sorted((e.start_us, e.end_us) for e in marks)
    nest([e for e in found if not e.is_device])
    return Trace(found, steps)


def nest(events: Sequence[Event]) -> None:
    """Tie operators of one thread to the operator that they ran in.

    Ranges that `record_function` makes are left out of the tree, but for the data loader's and the
    optimizer's: they may overlap others in part, and what matters is which operator called which.
    """
    by_thread: dict[int, list[Event]] = {}
    for event in events:
        if in_tree(event):
            by_thread.setdefault(event.thread, []).append(event)
    for own in by_thread.values():
        stack: list[Event] = []
        for event in sorted(own, key=lambda e: (e.start_us, -e.end_us)):
            while stack and stack[-1].end_us <= event.start_us:
                stack.pop()
            if stack:
                event.parent = stack[-1]
                stack[-1].children.append(event)
            stack.append(event)


def in_tree(event: Event) -> bool:
    """Is it an operator, or one of the ranges that hold operators together?"""
    return not event.is_range or _is_loader(event.name) or event.name == OPTIMIZER


def spans(trace: Trace) -> list[Span]:
    """What went on, with labels of `classes.PRIORITY`."""
    main = trace.main_thread
    found = [Span(e.start_us, e.end_us, _device_label(e.name)) for e in trace.events if e.is_device]
    host: dict[int, list[Span]] = {}
    for event in trace.events:
        if event.is_device or (event.is_range and not _is_loader(event.name)):
            continue
        if event.thread == main or trace.has_device:
            label = _host_label(event)
            if label in ("data loader", "driver"):  # whatever is called from within them
                if label == "driver" or event.thread == main:
                    found.append(Span(event.start_us, event.end_us, label))
            else:
                host.setdefault(event.thread, []).append(Span(event.start_us, event.end_us, label))
    for own in host.values():
        found += innermost(own)
    return found


def _event(event: Any) -> Event:
    shapes = tuple(tuple(shape) if shape else () for shape in event.input_shapes or ())
    is_device = event.device_type != torch.autograd.DeviceType.CPU
    return Event(
        name=event.name,
        start_us=event.time_range.start,
        end_us=event.time_range.end,
        thread=event.thread,
        is_device=is_device,
        is_range=bool(event.is_user_annotation) or event.scope == _RANGE_SCOPE,
        shapes=shapes,
        device_us=0.0 if is_device else event.self_device_time_total,
        sequence=event.sequence_nr,
    )


def _device_label(name: str) -> str:
    lower = name.lower()
    if lower.startswith(("memcpy", "memset")):
        return "device copy"
    return "device communication" if "nccl" in lower else "device kernel"


def _host_label(event: Event) -> str:
    name = event.name
    if _is_loader(name):
        return "data loader"
    if name.startswith(("cuda", "cu", "hip")) and "::" not in name:
        return "driver"
    if name.startswith(_COMMUNICATION):
        return "communication"
    if name in _COPIES:
        return "copy"
    return "runtime" if does_no_work(name) else "kernel"


def _is_loader(name: str) -> bool:
    return name.startswith(("enumerate(DataLoader)", LOADER))


@functools.cache
def does_no_work(name: str) -> bool:
    """Is this PyTorch's own book-keeping: a node of backward, a wrapper, a view, an allocation?"""
    if name.startswith(_COMPILED):
        return False
    namespace, _, operator = name.partition("::")
    if namespace in ("autograd", "torch") or "::" not in name:
        return True
    overload = _overload(namespace, operator)
    return overload is not None and (
        operator.startswith(("empty", "new_empty", "resize", "set_"))
        or _is_composite(overload)
        or _is_view(overload)
    )


def _overload(namespace: str, operator: str) -> torch._ops.OpOverload | None:
    """The one that speaks for all: others may be written in terms of it."""
    packet: Any = getattr(getattr(torch.ops, namespace), operator, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return None
    names = packet.overloads()
    return getattr(packet, "default" if "default" in names else names[0])


def _is_composite(overload: torch._ops.OpOverload) -> bool:
    if not torch._C._dispatch_has_kernel(overload.name()):
        return True  # an overload of TorchScript's alone
    return overload.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)


def _is_view(overload: torch._ops.OpOverload) -> bool:
    aliases = [value.alias_info for value in overload._schema.returns]
    return any(a is not None and not a.is_write for a in aliases)


Visitor = Callable[[Event], bool]
"""Called with an event; True to go on into its children."""


def walk(roots: Iterable[Event], visit: Visitor) -> None:
    """Call `visit` on each event, the outer before the inner, in order of time."""
    stack = sorted(roots, key=lambda e: -e.start_us)
    while stack:
        event = stack.pop()
        if visit(event):
            stack += sorted(event.children, key=lambda e: -e.start_us)
