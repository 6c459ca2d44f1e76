"""Every microsecond of a stretch of time in exactly one class.

What runs at a moment is read in the order of `PRIORITY`: the first class that has something running then
gets the moment. Work on a device comes first, because time in which it is busy is not lost to anything else;
then what the main thread does. A moment that nothing claims is Python's, or idle.

On a CUDA device the operators only prepare and launch kernels: their time, where nothing runs on the device,
is Python's. Without a device they are the kernels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PRIORITY = (
    "device kernel",
    "device copy",
    "device communication",
    "driver",
    "data loader",
    "kernel",
    "copy",
    "communication",
    "runtime",
    "python",
)
"""What may be going on, the first first."""

CLASSES = (
    "kernel",
    "copy",
    "communication",
    "runtime",
    "data loader",
    "Python/CPU",
    "idle",
)
"""What is reported."""

_CLASS_OF = {
    "device kernel": "kernel",
    "device copy": "copy",
    "device communication": "communication",
    "driver": "runtime",
    "python": "Python/CPU",
}


@dataclass(frozen=True)
class Span:
    """Something that went on from `start` to `end`, in any one unit."""

    start: float
    end: float
    label: str


def innermost(spans: Iterable[Span]) -> list[Span]:
    """The spans of one thread cut so that at each moment the innermost (latest begun) one remains."""
    pieces: list[Span] = []
    stack: list[Span] = []
    now = float("-inf")

    def advance(to: float) -> None:
        """Hand out the time up to `to` to what is open, closing what ends before."""
        nonlocal now
        while stack and now < to:
            top = stack[-1]
            if top.end <= now:
                stack.pop()
                continue
            end = min(top.end, to)
            now = max(now, top.start)
            pieces.append(Span(now, end, top.label))
            now = end
        now = max(now, to)

    # Of two that begin together, the longer one is the outer one.
    for span in sorted(spans, key=lambda s: (s.start, -s.end)):
        advance(span.start)
        stack.append(span)
    advance(max((span.end for span in stack), default=now))
    return pieces


def partition(window: tuple[float, float], spans: Sequence[Span]) -> dict[str, float]:
    """The time of the window by label of `PRIORITY`; "" is what no span covers. It adds up to the window."""
    low, high = window
    edges: list[tuple[float, int, str]] = []
    for span in spans:
        start, end = max(span.start, low), min(span.end, high)
        if end > start:
            edges += [(start, 1, span.label), (end, -1, span.label)]
    edges.sort(key=lambda edge: edge[0])
    totals: dict[str, float] = defaultdict(float)
    running = dict.fromkeys(PRIORITY, 0)
    now = low
    for at, change, label in edges:
        if at > now:
            totals[_first(running)] += at - now
            now = at
        running[label] += change
    if high > now:
        totals[_first(running)] += high - now
    return dict(totals)


def _first(running: dict[str, int]) -> str:
    return next((label for label in PRIORITY if running[label] > 0), "")


def classes(totals: dict[str, float], asleep: float, has_device: bool) -> dict[str, float]:
    """The reported classes of a partition, in the order of `CLASSES`; they add up to the same.

    Args:
        totals: what `partition` returned.
        asleep: time in which the main thread slept of its own will, data loader apart; that much of what
            nothing claims is idle, at most.
        has_device: a CUDA device did the work.
    """
    found = dict.fromkeys(CLASSES, 0.0)
    unclaimed = 0.0
    for label, time in totals.items():
        if label in ("", "python"):
            unclaimed += time
        elif has_device and label in ("kernel", "copy", "communication", "runtime"):
            found["Python/CPU"] += time
        else:
            found[_CLASS_OF.get(label, label)] += time
    idle = min(max(asleep, 0.0), unclaimed)
    found["idle"] += idle
    found["Python/CPU"] += unclaimed - idle
    return found
