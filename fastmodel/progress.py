"""What a run says while it works: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, TextIO

import rich.console
import rich.progress


class Progress(Protocol):
    """Where a run reports to. Used as a context manager."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def stage(self, title: str, total: int) -> None:
        """A new stage of `total` pieces of work begins."""

    def advance(self) -> None:
        """One piece of the stage is done."""

    def say(self, line: str) -> None:
        """A result worth keeping on screen."""


class SilentProgress:
    """Says nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, title: str, total: int) -> None:
        pass

    def advance(self) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class PlainProgress:
    """One line a stage and one a result."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.flush()

    def stage(self, title: str, total: int) -> None:
        self.say(f"{title} ...")

    def advance(self) -> None:
        pass

    def say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveProgress:
    """A bar for the stage that runs; results scroll above it."""

    def __init__(self, stream: TextIO) -> None:
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
            console=rich.console.Console(file=stream),
            transient=True,
            # Twice a second: redrawing takes time from what is being measured.
            refresh_per_second=2,
        )
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> LiveProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def stage(self, title: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(title, total=total)

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def say(self, line: str) -> None:
        self._bar.console.print(line, highlight=False, markup=False)


def progress_for(stream: TextIO) -> Progress:
    """The live bar where `stream` is a terminal, plain lines elsewhere."""
    return LiveProgress(stream) if stream.isatty() else PlainProgress(stream)
