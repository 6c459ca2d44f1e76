"""What the hardware did: sampled in a thread, from sources that say why something cannot be read."""

from fastmodel.harness.telemetry.host import HostSource
from fastmodel.harness.telemetry.meter import (
    EnergySource,
    Meter,
    NvmlEnergy,
    Reading,
    energy_sources,
    give_back_memory,
)
from fastmodel.harness.telemetry.rapl import RaplEnergy, RaplSource
from fastmodel.harness.telemetry.sampler import PERIOD_S, Sampler
from fastmodel.harness.telemetry.source import Quantity, Replay, Source
from fastmodel.harness.telemetry.sources import sources_for

__all__ = [
    "PERIOD_S",
    "EnergySource",
    "HostSource",
    "Meter",
    "NvmlEnergy",
    "Quantity",
    "RaplEnergy",
    "RaplSource",
    "Reading",
    "Replay",
    "Sampler",
    "Source",
    "energy_sources",
    "give_back_memory",
    "sources_for",
]
