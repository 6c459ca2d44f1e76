"""Telemetry over time: one small picture a quantity, under one another, on one time axis."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastmodel.harness.telemetry_records import Series, Telemetry

from . import format as fmt
from . import svg

# In this order, as far as there is something to see.
_SHOWN = (
    "gpu_busy_percent",
    "gpu_power_w",
    "gpu_sm_clock_mhz",
    "gpu_memory_used_bytes",
    "gpu_temperature_c",
    "process_cpu_cores",
    "children_cpu_cores",
    "machine_cpu_percent",
    "process_memory_bytes",
    "cpu_energy_j",
)
_ROW = 84


def shown(telemetry: Telemetry | None) -> list[Series]:
    """The series that have a picture: those of the list with at least two samples and a value above 0."""
    if telemetry is None:
        return []
    by_name = {one.name: one for one in telemetry.series}
    found = [by_name[name] for name in _SHOWN if name in by_name]
    return [one for one in found if len(_points(one)) > 1 and any(v for _, v in _points(one))]


def draw(telemetry: Telemetry | None, width: int) -> Figure | None:
    """Each quantity from zero, gaps where nothing could be read."""
    series = shown(telemetry)
    if telemetry is None or not series:
        return None
    drawn = svg.figure(width, _ROW * len(series) + 26)
    height = drawn.bbox.height
    for index, one in enumerate(series):
        top = _ROW * index + 22
        axes = svg.axes(drawn, left=62, right=12, top=top, bottom=height - top - _ROW + 34)
        values = [math.nan if v is None else v for v in _scaled(one)]
        axes.plot(
            telemetry.times_s, values, color=svg.OPTIMIZED, linewidth=1.5, gid=f"series-{index}"
        )
        axes.set_xlim(0, telemetry.duration_s or 1)
        axes.set_ylim(bottom=min(0.0, *(v for v in values if not math.isnan(v))))
        axes.grid(axis="x", visible=False)
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        is_last = index == len(series) - 1
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _, on=is_last: f"{value:g} s" if on else "")
        )
        svg.note(axes, (0, 1), (-54, 10), fmt.clean(label(one)))
    return drawn


def label(one: Series) -> str:
    """The name in words, with the unit that the picture uses."""
    name = one.name.replace("_", " ")
    if one.name.endswith("_bytes"):
        return f"{name.removesuffix(' bytes')}, GiB"
    for unit in ("percent", "mhz", "w", "j", "c", "cores"):
        if name.endswith(f" {unit}"):
            shown_as = {
                "percent": "%",
                "mhz": "MHz",
                "w": "W",
                "j": "J",
                "c": "°C",
                "cores": "cores",
            }
            return f"{name.removesuffix(f' {unit}')}, {shown_as[unit]}"
    return name


def _scaled(one: Series) -> list[float | None]:
    values = one.values
    first = next((v for v in values if v is not None), 0.0)
    if one.is_counter:
        values = [None if v is None else v - first for v in values]
    if one.name.endswith("_bytes"):
        return [None if v is None else v / 2**30 for v in values]
    return list(values)


def _points(one: Series) -> list[tuple[int, float]]:
    return [(i, v) for i, v in enumerate(_scaled(one)) if v is not None]
