"""Two installations of fastmodel timed in turns: has a change made the training step slower?

Reports of separate runs cannot say so on a shared machine, which is another from minute to minute. Here both
installations train in the same seconds, each in a process of its own, ABBA.

Processes differ too: each lies in pages of memory of its own, which the caches like more or less, and stays
there while it lives. So both start anew for every session, either first in turns, and the sessions' own
ratios are the samples of the result: many short sessions say more than few long ones.

A team of threads spins for some milliseconds after its last work, on a core that the other process then
wants, and finds cold caches when its turn comes. So before each window goes one that is not timed.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastmodel.errors import InputError
from fastmodel.harness import measure
from fastmodel.harness.compare import NEW, OLD, Session, SideBySide, judge
from fastmodel.harness.isolated import IsolatedRunner
from fastmodel.harness.measure import Steps, Timing
from fastmodel.harness.records import Interval
from fastmodel.harness.workloads import Options
from fastmodel.progress import Progress
from fastmodel.timing import interleave, mean_of_groups, now_s, paired_ratios

ARM = "fastmodel"
FEWEST_SESSIONS = 3
# Two installations alike differ by a standard deviation of 3 % from session to session, by 1 % within one of
# a second; 5 seconds pass before a session is timed (mnist-cnn, 2 cores of an AMD EPYC 9005).
SESSIONS, SESSION_TIME_S = 16, 1.0
_MOST_PAIRS = 100_000
# Many short windows: a burst of somebody else's work then spoils few of them, and what stands out is bounded.
_TIMING = Timing(window_time_s=0.025, warmup_time_s=1.0, warmup_steps=30)


def side_by_side(
    old: Path,
    new: Path,
    source: str,
    options: Options,
    progress: Progress,
    sessions: int = SESSIONS,
    session_time_s: float = SESSION_TIME_S,
    fail_below: float | None = None,
) -> SideBySide:
    """Time fastmodel's training step of `source` in both installations.

    Args:
        old: the Python interpreter of one installation.
        new: that of the other.
        source: the workload as it was typed; a file is read by both.
        options: of the run.
        progress: told of each session.
        sessions: how often both start anew, at least 3.
        session_time_s: how long they are timed each time.
        fail_below: the gate's bound for the ratio.

    Raises:
        InputError: an interpreter is none, or there are too few sessions.
        ArmFailedError: an installation cannot build or run the workload.
    """
    for python in (old, new):
        if not python.is_file():
            raise InputError(f"{python} is no Python interpreter of an installation")
    if sessions < FEWEST_SESSIONS:
        raise InputError(f"{sessions} sessions tell no spread; time at least {FEWEST_SESSIONS}")
    progress.stage(f"timing {source} in two installations", sessions)
    found: list[Session] = []
    steps: Steps | None = None
    for number in range(sessions):
        starting = {OLD: old, NEW: new} if number % 2 == 0 else {NEW: new, OLD: old}
        with contextlib.ExitStack() as stack:
            runners = _started(starting, source, options, stack)
            if steps is None:
                steps = measure.choose_steps(runners[NEW], _TIMING, options.device)
            found.append(_session(runners, steps, options.device, session_time_s))
        progress.advance()
    assert steps is not None
    mean = mean_of_groups([session.ratios for session in found])
    ratio = Interval(mean.value, (mean.low, mean.high))
    gate = None if fail_below is None else judge("speed new / old", ratio, fail_below)
    return SideBySide(str(old), str(new), source, steps.window, steps.warmup, found, ratio, gate)


def _started(
    pythons: dict[str, Path], source: str, options: Options, stack: contextlib.ExitStack
) -> dict[str, IsolatedRunner]:
    """Both children, which start at the same time; the stack ends them."""

    def start(python: Path) -> IsolatedRunner:
        return stack.enter_context(contextlib.closing(IsolatedRunner(ARM, source, options, python)))

    with ThreadPoolExecutor(len(pythons)) as pool:
        return dict(zip(pythons, pool.map(start, pythons.values()), strict=True))


def _session(
    runners: dict[str, IsolatedRunner], steps: Steps, device: str, time_s: float
) -> Session:
    for runner in runners.values():
        runner.run(steps.warmup)
        runner.rewind()
    windows = {name: (lambda runner=r: runner.run(steps.window)) for name, r in runners.items()}

    # Without the untimed steps, a window after the other installation's took 1.2 times as long as one after
    # its own, and times varied by 40 %; with 4 of them by 20 %, with 12 by 5 % (mnist-cnn, as above).
    def prepare(runner: IsolatedRunner) -> None:
        runner.rewind()
        runner.run(steps.window)

    before_each = {name: functools.partial(prepare, runner) for name, runner in runners.items()}
    samples = []
    end_s = now_s(device) + time_s
    for sample in interleave(windows, _MOST_PAIRS, device, before_each=before_each):
        samples.append(sample)
        if sample.position == len(windows) - 1 and now_s(device) >= end_s:
            break
    times_s = {name: [s.time_s for s in samples if s.arm == name] for name in runners}
    return Session(
        paired_ratios(samples, OLD, NEW),
        {name: statistics.median(values) / steps.window for name, values in times_s.items()},
    )
