"""A thread that samples sources at a fixed period, and the record of what it saw.

The samples stay bounded: past `_MOST_SAMPLES` every second one is dropped and the period doubles.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence

from fastmodel.errors import InputError
from fastmodel.harness.telemetry.source import Quantity, Source
from fastmodel.harness.telemetry_records import Series, Telemetry

PERIOD_S = 0.1
_MOST_SAMPLES = 4096


class Sampler:
    """Samples between `with Sampler(...) as sampler:` and its end; then `sampler.telemetry`.

    Args:
        sources: sampled in turn, in a thread of their own.
        period_s: seconds between samples.
        missing: reasons why a source is not among them.

    Raises:
        InputError: the period is not above 0.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        period_s: float = PERIOD_S,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        if not period_s > 0:
            raise InputError(f"telemetry: the period must be above 0 s, got {period_s}")
        self._sources = list(sources)
        self._period_s = period_s
        self._missing = dict(missing or {})
        self._times_s: list[float] = []
        self._samples: list[dict[str, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        self.telemetry: Telemetry | None = None

    def __enter__(self) -> Sampler:
        for source in self._sources:
            source.start()
        self._start_s = time.perf_counter()
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take()
        window: dict[str, float | None] = {}
        for source in self._sources:
            window |= source.finish()
        self.telemetry = self._record(window)

    def _run(self) -> None:
        while not self._stop.wait(self._period_s):
            self._take()
            if len(self._samples) > _MOST_SAMPLES:
                self._times_s, self._samples = self._times_s[::2], self._samples[::2]
                self._period_s *= 2

    def _take(self) -> None:
        at_s = time.perf_counter() - self._start_s
        found: dict[str, float] = {}
        for source in self._sources:
            found |= source.sample()
        self._times_s.append(at_s)
        self._samples.append(found)

    def _record(self, window: dict[str, float | None]) -> Telemetry:
        missing = dict(self._missing)
        facts: dict[str, str] = {}
        series = []
        for source in self._sources:
            missing |= source.missing
            facts |= source.facts
            for quantity in source.quantities:
                one = self._series(quantity, source.name)
                if all(value is None for value in one.values):
                    missing.setdefault(quantity.name, "no sample could be read")
                series.append(one)
        names = dict.fromkeys(source.name for source in self._sources if source.quantities)
        return Telemetry(
            source=" + ".join(names) or "none",
            period_s=self._period_s,
            duration_s=self._times_s[-1],
            times_s=self._times_s,
            series=series,
            window=window,
            facts=facts,
            missing=missing,
        )

    def _series(self, quantity: Quantity, source: str) -> Series:
        values = [_finite(sample.get(quantity.name)) for sample in self._samples]
        seen = [(t, v) for t, v in zip(self._times_s, values, strict=True) if v is not None]
        mean = maximum = total = None
        if seen and quantity.is_counter:
            total = seen[-1][1] - seen[0][1]
            elapsed_s = seen[-1][0] - seen[0][0]
            mean = total / elapsed_s if elapsed_s > 0 else None
        elif seen:
            mean = sum(v for _, v in seen) / len(seen)
            maximum = max(v for _, v in seen)
        return Series(quantity.name, source, quantity.is_counter, values, mean, maximum, total)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
