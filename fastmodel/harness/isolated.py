"""An arm in a process of its own, which may crash without taking along what was measured.

torch.compile has been seen to corrupt memory on some machines, and the process that this happens to
dies, or worse, goes on. So such an arm is built, timed, profiled and trained in a child; the parent
sends it small requests over a socket and times its windows from outside, which adds a tenth of a millisecond
to each. What a child prints goes to a file, whose last lines explain its death.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from fastmodel.errors import ArmFailedError
from fastmodel.harness.measure import Runner
from fastmodel.harness.workloads import registry
from fastmodel.harness.workloads.arms import Arm, default_arms
from fastmodel.harness.workloads.protocol import Options, Workload

# What a child is asked to do: a function of a module, its results sent as they come.
Task = Callable[..., Iterator[Any]]

_ITEM, _END, _ERROR = "item", "end", "error"
_PATIENCE_S = 10.0


class Isolated:
    """A child process in which an arm can be worked with.

    Args:
        name: the arm's name among `default_arms`.
        source: the workload as it was typed, so that the child can build it too.
        options: of the run.
        python: the interpreter of another installation of fastmodel; None for this process's own.

    Raises:
        ArmFailedError: the child could not build the arm.
    """

    def __init__(
        self, name: str, source: str, options: Options, python: Path | None = None
    ) -> None:
        self._name = name
        self._said = tempfile.TemporaryFile(prefix="fastmodel-arm-")  # noqa: SIM115
        ours, theirs = socket.socketpair()
        self._pipe = Connection(ours.detach())
        # The very paths of this process, or the interpreter's own; `-c` alone would put the working
        # directory before them.
        paths = repr(sys.path) if python is None else "sys.path[1:]"
        start = f"import sys; sys.path[:] = {paths}; from {__name__} import serve; serve()"
        with theirs:
            self._process = subprocess.Popen(
                [python or sys.executable, "-c", start, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the parent's to deal with
            )
        self._first: tuple[Any, ...] | None = (name, source, options, torch.get_num_threads())

    def ask(self, task: Task, *arguments: Any) -> Iterator[Any]:
        """What `task(arm, workload, options, *arguments)` yields over there, as it comes.

        Raises:
            ArmFailedError: it raised, or the child died.
        """
        try:
            if self._first is not None:
                self._pipe.send(self._first)
                self._first = None
            self._pipe.send((task, arguments))
            while (answer := self._pipe.recv())[0] == _ITEM:
                yield answer[1]
        except (EOFError, OSError) as error:
            raise ArmFailedError(self._name, self._death()) from error
        if answer[0] == _ERROR:
            raise ArmFailedError(self._name, answer[1])

    def close(self) -> None:
        """End the child."""
        self._pipe.close()
        try:
            self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def _death(self) -> str:
        try:
            code = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return "its process closed the pipe"
        how = f"its process ended with {code}"
        if code < 0:
            how = f"its process was killed by {signal.Signals(-code).name}"
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").split("\n")
        last = " ".join(" ".join(lines[-3:]).split())[-200:]
        return f"{how}: {last}" if last else how


class IsolatedRunner:
    """An arm ready to be timed in a child; the interface of `Runner`."""

    def __init__(
        self, name: str, source: str, options: Options, python: Path | None = None
    ) -> None:
        self._child = Isolated(name, source, options, python)
        try:
            (self.startup_time_s,) = self._child.ask(_build)
        except BaseException:
            self._child.close()
            raise

    def run(self, steps: int) -> None:
        """Train `steps` steps over there."""
        for _ in self._child.ask(_run, steps):
            pass

    def rewind(self) -> None:
        """Go back to the training state of the first call, over there."""
        for _ in self._child.ask(_rewind):
            pass

    def close(self) -> None:
        """End the child."""
        self._child.close()


_runner: Runner | None = None
"""In a child: the arm that `_build` has built."""


def _build(arm: Arm, workload: Workload, options: Options) -> Iterator[float]:
    global _runner
    _runner = Runner(arm, workload, options)
    yield _runner.startup_time_s


def _run(arm: Arm, workload: Workload, options: Options, steps: int) -> Iterator[Any]:
    assert _runner is not None
    _runner.run(steps)
    yield from ()


def _rewind(arm: Arm, workload: Workload, options: Options) -> Iterator[Any]:
    assert _runner is not None
    _runner.rewind()
    yield from ()


def serve() -> None:
    """The child: do what is asked until the pipe is closed."""
    pipe = Connection(int(sys.argv[1]))
    name, source, options, threads = pipe.recv()
    torch.set_num_threads(threads)
    arm: Arm | None = None
    while True:
        try:
            task, arguments = pipe.recv()
        except EOFError:
            return
        try:
            if arm is None:
                workload = registry.make(source, options)
                arms = default_arms(workload, True, options.device)
                arm = next(arm for arm in arms if arm.name == name)
            for item in task(arm, workload, options, *arguments):
                pipe.send((_ITEM, item))
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            pipe.send((_ERROR, reason))
        else:
            pipe.send((_END, None))
