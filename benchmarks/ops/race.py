"""One contest, run: numbers first, then interleaved windows, then the ratio to PyTorch's best arm."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from arms import AUTO, Arm, Contest
from ceilings import Ceilings
from results import Row
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from fastmodel import timing
from fastmodel.errors import BackendError
from fastmodel.ops.case import tolerance

_AGAIN = "auto again"
"""The same arm a second time: its ratio to `auto` shows the noise."""
_ROUNDS = 20
_FEWEST_ROUNDS = 6


class WrongNumbersError(AssertionError):
    """A kernel of ours differs from float64; it is not timed."""


def check(contest: Contest) -> tuple[dict[str, Arm], dict[str, str]]:
    """The arms that answer rightly, and why the others are left out.

    This is each arm's warm-up, too.

    Raises:
        WrongNumbersError: one of ours answers wrongly.
    """
    running, left_out = {}, dict(contest.left_out)
    for name, arm in contest.arms.items():
        try:
            with arm.scope():
                problem = difference(arm.answer(), contest.expected, contest.depth)
        except BackendError as error:
            left_out[name] = str(error)
            continue
        except TorchDynamoException as error:
            left_out[name] = f"does not compile: {_in_short(error)}"
            continue
        if problem is None:
            running[name] = arm
        elif arm.is_ours:
            raise WrongNumbersError(f"{name}: {problem}; not timed")
        else:
            left_out[name] = f"wrong numbers: {problem}"
    return running, left_out


def difference(found: Sequence[Tensor], expected: Sequence[Tensor], depth: int) -> str | None:
    """Where the answer leaves the bound of `tolerance`, whose atol is for unit scale; None if nowhere."""
    if len(found) != len(expected):
        return f"{len(found)} results, expected {len(expected)}"
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a.shape != b.shape:
            return f"result {i} has shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        bound = tolerance(a.dtype, depth)
        limit = b.abs().mul_(bound["rtol"]).add_(bound["atol"] * b.square().mean().sqrt())
        worst = ((a.double() - b).abs() / limit).max().item()
        if not worst <= 1:
            return f"result {i} is off by {worst:.3g} times the tolerance"
    return None


def run(
    op: str, case: str, pass_: str, contest: Contest, ceilings: Ceilings, budget_s: float
) -> Row:
    """Check, time for about `budget_s` seconds, judge.

    Raises:
        WrongNumbersError: one of ours answers wrongly.
    """
    running, left_out = check(contest)
    raced = {**running, _AGAIN: running[AUTO]}
    calls, rounds = _plan(raced, budget_s)
    windows = {name: lambda arm=arm: arm.window(calls) for name, arm in raced.items()}
    samples = list(timing.interleave(windows, rounds))
    times_ms = {
        name: [1e3 * sample.time_s / calls for sample in samples if sample.arm == name]
        for name in raced
    }
    median_ms = {name: statistics.median(times) for name, times in times_ms.items()}
    best = min(
        (name for name, arm in running.items() if not arm.is_ours), key=median_ms.__getitem__
    )
    gflop_per_s = contest.flops / median_ms[AUTO] / 1e6
    gb_per_s = contest.size_bytes / median_ms[AUTO] / 1e6
    return Row(
        op=op,
        case=case,
        pass_=pass_,
        median_ms=median_ms,
        best_torch=best,
        ratio=timing.mean_ratio(timing.paired_ratios(samples, best, AUTO)),
        noise=timing.mean_ratio(timing.paired_ratios(samples, _AGAIN, AUTO)),
        gflop_per_s=gflop_per_s,
        gb_per_s=gb_per_s,
        flop_share=gflop_per_s / ceilings.gflop_per_s,
        byte_share=gb_per_s / ceilings.gb_per_s,
        calls_a_window=calls,
        times_ms=times_ms,
        left_out=left_out,
    )


def _in_short(error: Exception) -> str:
    """What stands before the compiler's own pages."""
    return " ".join(str(error).partition("\n\n")[0].split()) or type(error).__name__


def _plan(raced: dict[str, Arm], budget_s: float) -> tuple[int, int]:
    """(calls a window, rounds) that take about the budget; the round that measures it warms up."""
    start_s = time.perf_counter()
    for arm in raced.values():
        arm.window(1)
    round_s = time.perf_counter() - start_s
    rounds = min(_ROUNDS, max(_FEWEST_ROUNDS, int(budget_s / round_s)))
    return max(1, int(budget_s / (rounds * round_s))), rounds
