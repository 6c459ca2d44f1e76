"""What a source of telemetry is, and one that replays a recording."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Quantity:
    """Something that can be sampled; its unit is in its name."""

    name: str
    is_counter: bool = False
    """It only rises, and its difference over the window is what was used."""


class Source(Protocol):
    """Samples some quantities.

    What cannot be read is left out of `quantities` and stands in `missing` with the reason; what stops being
    readable later gets its reason there when it does.
    """

    name: str
    quantities: Sequence[Quantity]
    missing: dict[str, str]
    facts: dict[str, str]

    def start(self) -> None:
        """The window begins."""
        ...

    def sample(self) -> Mapping[str, float]:
        """Name to value, of what could be read now. Called from the sampler's thread; never raises."""
        ...

    def finish(self) -> Mapping[str, float | None]:
        """The window ends: figures of the whole window."""
        ...


class Replay:
    """Gives recorded samples one after the other, then nothing: telemetry without the hardware."""

    name = "replay"

    def __init__(
        self,
        samples: Iterable[Mapping[str, float]],
        counters: Iterable[str] = (),
        window: Mapping[str, float | None] | None = None,
        missing: Mapping[str, str] | None = None,
    ) -> None:
        self._samples = [dict(sample) for sample in samples]
        names = dict.fromkeys(name for sample in self._samples for name in sample)
        rising = set(counters)
        self.quantities: Sequence[Quantity] = [Quantity(name, name in rising) for name in names]
        self.missing = dict(missing or {})
        self.facts: dict[str, str] = {}
        self._window = dict(window or {})

    def start(self) -> None:
        """Nothing to begin."""

    def sample(self) -> Mapping[str, float]:
        """The next recorded sample."""
        return self._samples.pop(0) if self._samples else {}

    def finish(self) -> Mapping[str, float | None]:
        """The recorded figures of the window."""
        return self._window
