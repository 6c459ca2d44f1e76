"""Time inside the DataLoader's iterator, and steps without it.

For the length of a `with LoaderWatch()` the iterator of every `torch.utils.data.DataLoader` is timed. While
`cached` is on it hands out the last batch again and does not touch the data set: what a step takes then is
what it would take if data were free.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from fastmodel.harness.profile.sleep import SleepClock
from fastmodel.harness.profile.trace import LOADER


class LoaderWatch:
    """Counts the seconds that the training thread spends waiting for batches."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self.batches = 0
        self.slept_s = 0.0
        """Of that, asleep: counted while there is a `sleep_clock`."""
        self.sleep_clock: SleepClock | None = None
        self.cached = False
        """Hand out the last batch again."""
        self.loaders: list[DataLoader] = []
        self._last: Any = None
        self._is_waiting = False
        self._thread = threading.get_ident()
        self._originals: tuple[Any, Any] | None = None

    def __enter__(self) -> LoaderWatch:
        originals = self._originals = (_BaseDataLoaderIter.__next__, DataLoader.__iter__)
        advance, begin = originals
        watch = self

        def timed_next(iterator: _BaseDataLoaderIter) -> Any:
            if watch.cached and watch._last is not None:
                return watch._last
            with watch._waiting():
                watch._last = advance(iterator)
            watch.batches += 1
            return watch._last

        def timed_iter(loader: DataLoader) -> Any:
            # Starting workers and shuffling are data loading too.
            if loader not in watch.loaders:
                watch.loaders.append(loader)
            with watch._waiting(), torch.autograd.profiler.record_function(LOADER):
                return begin(loader)

        _BaseDataLoaderIter.__next__ = timed_next  # type: ignore[assignment,method-assign]
        DataLoader.__iter__ = timed_iter  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        if self._originals is not None:
            _BaseDataLoaderIter.__next__ = self._originals[0]  # type: ignore[method-assign]
            DataLoader.__iter__ = self._originals[1]  # type: ignore[method-assign]
            self._originals = None
        self._last = None

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        # Another thread that fetches ahead keeps nobody waiting, and a loader within a loader counts once.
        if self._is_waiting or threading.get_ident() != self._thread:
            yield
            return
        self._is_waiting = True
        clock = self.sleep_clock
        asleep_s = clock.now_s() if clock is not None else 0.0
        start_s = time.perf_counter()
        try:
            yield
        finally:
            self._is_waiting = False
            self.waited_s += time.perf_counter() - start_s
            if clock is not None:
                self.slept_s += clock.now_s() - asleep_s

    def forget(self) -> None:
        """Give back the cached batch and the loaders."""
        self._last = None
        self.cached = False
