"""Timing on the GPU: numbers first, then interleaved calls between CUDA events, each from a cold L2.

Before each call a buffer larger than L2 is overwritten, outside of the timed stretch: so inputs come from
memory, as they do in a network, and the host is ahead of the device by that much.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from records import Line
from torch import Tensor

from fastmodel import timing
from fastmodel.errors import FastmodelError

DEVICE = "cuda"
AUTO = "auto"
FEWEST_ROUNDS, MOST_ROUNDS = 5, 60
_FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Arm:
    """One way to do the work."""

    call: Callable[[], object]
    answer: Callable[[], Sequence[Tensor]]
    """What is compared with the expected values; run once before the clock."""
    is_ours: bool = False


@dataclass(frozen=True)
class Race:
    """What is timed."""

    line: Line
    arms: Mapping[str, Arm]
    expected: Sequence[Tensor] | None = None
    """In float64; None where a smaller case of the same work has been checked."""
    flops: float = 0
    size_bytes: float = 0
    goals: Sequence[Goal] = ()
    has_memory: bool = False
    """Is peak memory a figure?"""


@dataclass(frozen=True)
class Goal:
    """What a line must show: a figure, and its least (or most) value."""

    figure: str
    bound: float
    is_most: bool = False

    def judged(self, figures: Mapping[str, float]) -> str:
        """In words, with whether it is reached."""
        sign = "<=" if self.is_most else ">="
        wanted = f"{self.figure} {sign} {self.bound:g}"
        value = figures.get(self.figure)
        if value is None:
            return f"{wanted}: not measured"
        is_reached = value <= self.bound if self.is_most else value >= self.bound
        return f"{wanted}: {value:.3g}, {'reached' if is_reached else 'MISSED'}"


@dataclass
class Ceilings:
    """What the device reaches at most, measured in this very run."""

    copy_gb_per_s: float
    """A copy of 1 GiB, read and write counted."""
    product_tflop_per_s: dict[str, float] = field(default_factory=dict)
    """PyTorch's product of two 8,192 x 8,192 matrices, by dtype."""


def ceilings() -> Ceilings:
    """A second on the device."""
    source = torch.randn(2**28, device=DEVICE)
    target = torch.empty_like(source)
    copy_ms = _median_ms(functools.partial(target.copy_, source))
    found = Ceilings(2 * source.numel() * 4 / copy_ms / 1e6)
    del source, target
    for dtype in (torch.bfloat16, torch.float32):
        a, b = torch.randn(2, 8192, 8192, device=DEVICE).to(dtype)
        out = torch.empty_like(a)
        product_ms = _median_ms(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 10)
        name = str(dtype).removeprefix("torch.")
        found.product_tflop_per_s[name] = 2 * 8192**3 / product_ms / 1e9
    return found


def _median_ms(call: Callable[[], object], rounds: int = 20) -> float:
    clock = Clock()
    call()
    return statistics.median(clock.times_ms({"": call}, rounds)[""])


class Clock:
    """Times calls by events; holds the buffer that empties L2."""

    def __init__(self) -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device=DEVICE)

    def times_ms(
        self, calls: Mapping[str, Callable[[], object]], rounds: int
    ) -> dict[str, list[float]]:
        """Of each call in each round; the order is reversed every other round."""
        names = list(calls)
        events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {n: [] for n in names}
        for index in range(rounds):
            for name in names if index % 2 == 0 else names[::-1]:
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                self._flush.zero_()
                start.record()
                calls[name]()
                end.record()
                events[name].append((start, end))
        torch.cuda.synchronize()
        return {n: [start.elapsed_time(end) for start, end in pairs] for n, pairs in events.items()}


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected; NaN is right where it is expected."""
    is_nan = found.isnan() & expected.isnan()
    found, expected = (t.double().masked_fill(is_nan, 0.0) for t in (found, expected))
    tiny = torch.finfo(torch.float64).tiny
    return ((found - expected).norm() / expected.norm().clamp_min(tiny)).item()


def bound(dtype: torch.dtype) -> float:
    """Of `relative_error` for a result of this dtype.

    A rounding of random values to eps is off by eps / (2 sqrt 3) in the mean square. A chain of a product, an
    activation and another product rounds three times, sums average further: 1.5 eps lies five times above. A
    float32 sum of 10^5 terms gathers some sqrt(10^5) / 4 roundings: 64 eps. (Products of float32 matrices are
    held to float32, not to tf32.)
    """
    eps = torch.finfo(dtype).eps
    return 1.5 * eps if dtype in (torch.bfloat16, torch.float16) else 64 * eps


def check(race: Race) -> dict[str, Arm]:
    """The arms that answer rightly; the others are noted in the line.

    Raises:
        AssertionError: auto answers wrongly, or not at all.
    """
    running = {}
    for name, arm in race.arms.items():
        problem = None
        try:
            answer = arm.answer()
            if race.expected is not None:
                problem = difference(answer, race.expected)
        except (FastmodelError, RuntimeError, NotImplementedError) as error:
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if problem is None:
            running[name] = arm
        else:
            race.line.left_out[name] = problem
        synchronize()
    if AUTO not in running:
        raise AssertionError(f"auto: {race.line.left_out[AUTO]}; not timed")
    return running


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> str | None:
    """What is wrong with an answer, in words; None where nothing is."""
    if len(found) != len(expected):
        return f"{len(found)} results, expected {len(expected)}"
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            return f"result {index} has shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        error = relative_error(a, b)
        if not error <= bound(a.dtype):
            return f"result {index} is off by {error:.2g}, allowed {bound(a.dtype):.2g}"
    return None


def run(race: Race, limits: Ceilings, budget_s: float) -> Line:
    """Check, time for about `budget_s` seconds, judge.

    Raises:
        AssertionError: ours answers wrongly.
    """
    line, clock = race.line, Clock()
    running = check(race)
    calls = {name: arm.call for name, arm in running.items()}
    if race.has_memory:
        line.peak_bytes = {name: peak_bytes(call) for name, call in calls.items()}
    start_s = timing.now_s(DEVICE)
    clock.times_ms(calls, 2)
    round_s = max(1e-6, (timing.now_s(DEVICE) - start_s) / 2)
    rounds = int(min(MOST_ROUNDS, max(FEWEST_ROUNDS, budget_s / round_s)))
    return judge(race, running, clock.times_ms(calls, rounds), limits)


def judge(
    race: Race, running: Mapping[str, Arm], times_ms: dict[str, list[float]], limits: Ceilings
) -> Line:
    """Fill the line in from its times."""
    line = race.line
    line.times_ms = times_ms
    line.median_ms = {name: statistics.median(times) for name, times in times_ms.items()}
    own_ms = line.median_ms[AUTO]
    theirs = [name for name, arm in running.items() if not arm.is_ours]
    if theirs:
        line.best_torch = min(theirs, key=line.median_ms.__getitem__)
        pairs = zip(times_ms[line.best_torch], times_ms[AUTO], strict=True)
        estimate = timing.mean_ratio([a / b for a, b in pairs])
        line.ratio = (estimate.value, estimate.low, estimate.high)
        line.figures["ratio to the best"] = estimate.value
    for name in line.median_ms:
        if name != AUTO:
            line.figures[f"ratio to {name}"] = line.median_ms[name] / own_ms
    if race.size_bytes:
        line.gb_per_s = race.size_bytes / own_ms / 1e6
        line.figures["share of the copy"] = line.gb_per_s / limits.copy_gb_per_s
    if race.flops:
        line.tflop_per_s = race.flops / own_ms / 1e9
    if line.peak_bytes.get("torch"):
        line.figures["peak memory to torch's"] = line.peak_bytes[AUTO] / line.peak_bytes["torch"]
    line.goals = [goal.judged(line.figures) for goal in race.goals]
    return line


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory allocated during a call, beyond what was allocated before."""
    synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    synchronize()
    return torch.cuda.max_memory_allocated() - before


def synchronize() -> None:
    """Wait for the device."""
    timing.now_s(DEVICE)
