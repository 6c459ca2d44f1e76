"""The energy counters of the CPU's packages: microjoules that wrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from fastmodel.harness.telemetry.source import Quantity

POWERCAP = Path("/sys/class/powercap")
ENERGY = "cpu_energy_j"


class RaplEnergy:
    """The energy counter of one CPU package: microjoules that wrap at `max_energy_range_uj`."""

    def __init__(self, domain: Path) -> None:
        self.name = f"RAPL {(domain / 'name').read_text().strip()}"
        self._counter = domain / "energy_uj"
        self._range_uj = int((domain / "max_energy_range_uj").read_text())
        self._last_uj = self._read_uj()
        self._total_uj = 0

    def read_j(self) -> float:
        """Joules since this was made; read it every few minutes at least, so that each wrap is seen."""
        now_uj = self._read_uj()
        self._total_uj += (now_uj - self._last_uj) % (self._range_uj + 1)
        self._last_uj = now_uj
        return self._total_uj / 1e6

    def _read_uj(self) -> int:
        return int(self._counter.read_text())


def packages(powercap: Path = POWERCAP) -> tuple[list[RaplEnergy], str | None]:
    """The counters of whole packages that can be read, and why there is none."""
    found: list[RaplEnergy] = []
    reason = f"no RAPL counter under {powercap}; this machine or its virtualization hides it"
    for domain in sorted(powercap.glob("intel-rapl:*")):
        if domain.name.count(":") != 1:
            continue
        try:
            source = RaplEnergy(domain)
        except PermissionError:
            reason = f"{domain / 'energy_uj'} is readable by root only"
        except (OSError, ValueError) as error:
            reason = f"{domain}: {error}"
        else:
            # psys covers the whole platform, the packages included.
            if not source.name.endswith("psys"):
                found.append(source)
    return found, None if found else reason


class RaplSource:
    """All packages together, as a source of telemetry."""

    name = "rapl"

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._packages, reason = packages(powercap)
        self.quantities: Sequence[Quantity] = [Quantity(ENERGY, True)] if self._packages else []
        self.missing = {} if reason is None else {ENERGY: reason}
        self.facts: dict[str, str] = {}

    def start(self) -> None:
        """Nothing to begin: the first sample is the counters' start."""

    def sample(self) -> Mapping[str, float]:
        """Joules since this was made."""
        if not self._packages:
            return {}
        try:
            return {ENERGY: sum(package.read_j() for package in self._packages)}
        except (OSError, ValueError) as error:
            self.missing[ENERGY] = f"from some moment on: {error}"
            self._packages = []
            return {}

    def finish(self) -> Mapping[str, float | None]:
        """Nothing of the whole window."""
        return {}
