"""Interleaved timing: the arms take turns, so that drift of the machine meets all of them alike.

Two arms run A B, then B A, then A B ...: read in a row that is ABBA, which cancels any drift that
is linear in time. More arms run in an order that is reversed every round. One round is one pair: it
holds one window of each arm, and only windows of the same round are divided by one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from fastmodel.errors import InputError
from fastmodel.timing.clock import now_s


@dataclass(frozen=True)
class Sample:
    """One timed window: `position` is its place within round `pair`."""

    arm: str
    pair: int
    position: int
    time_s: float


def interleave(
    arms: Mapping[str, Callable[[], object]],
    pairs: int,
    device: torch.device | str = "cpu",
    clock: Callable[[torch.device | str], float] = now_s,
    first: int = 0,
    before_each: Mapping[str, Callable[[], object]] | None = None,
) -> Iterator[Sample]:
    """Run each arm once a round for `pairs` rounds and yield every window as it ends.

    Args:
        arms: name to a function that runs one window of that arm. Warm them up first.
        pairs: number of rounds, at least 1.
        device: waited for at both edges of each window.
        clock: seconds, given the device; the tests bring their own.
        first: number of the first round, for a run that goes on after a break.
        before_each: by arm, what to run before each of its windows, outside of its time.

    Raises:
        InputError: no arms, or fewer than one round; while running: the clock did not advance.
    """
    if not arms or pairs < 1:
        raise InputError(f"interleave: need an arm and a round, got {len(arms)} and {pairs}")
    return _windows(arms, range(first, first + pairs), device, clock, before_each or {})


def _windows(
    arms: Mapping[str, Callable[[], object]],
    pairs: range,
    device: torch.device | str,
    clock: Callable[[torch.device | str], float],
    before_each: Mapping[str, Callable[[], object]],
) -> Iterator[Sample]:
    names = list(arms)
    for pair in pairs:
        order = names if pair % 2 == 0 else names[::-1]
        for position, name in enumerate(order):
            if name in before_each:
                before_each[name]()
            start_s = clock(device)
            arms[name]()
            time_s = clock(device) - start_s
            if not time_s > 0:
                raise InputError(
                    f"interleave: a window of {name} took {time_s} s; the clock stands still or "
                    "runs backwards, so nothing can be timed on this machine"
                )
            yield Sample(name, pair, position, time_s)


def paired_ratios(samples: Sequence[Sample], baseline: str, optimized: str) -> list[float]:
    """Baseline time over optimized time, one for each round that has both; above 1 is faster."""
    times = {(sample.arm, sample.pair): sample.time_s for sample in samples}
    pairs = sorted({sample.pair for sample in samples})
    return [
        times[baseline, pair] / times[optimized, pair]
        for pair in pairs
        if (baseline, pair) in times and (optimized, pair) in times
    ]
