"""The picture of the paired samples: every pair's ratio, their mean, and the noise floor around 1.

Far from 1 the axis is cut in two panels of one relative scale, so that the scatter of the ratios
and the noise floor can be seen, and compared with each other, at any ratio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastmodel.harness.records import Report, Speedup

from . import format as fmt
from . import svg

CUT_SHARE = 0.4
"""The axis is cut where the empty span between 1 and the ratios takes more than this share."""

_HEIGHT = 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 48.0, 108.0, 10.0, 34.0
_CUT = 24.0
"""Pixels between the panels of a cut axis."""

Span = tuple[float, float]


def draw(report: Report, width: int) -> Figure | None:
    """One dot a pair; None without a finite ratio."""
    speedup = report.speedup
    if speedup is None or not any(map(math.isfinite, speedup.ratios)):
        return None
    ratios = _span([speedup.estimate, *speedup.ratios, *speedup.ci95])
    floor = _span([1.0, *speedup.noise_floor])
    gap = max(ratios[0] - floor[1], floor[0] - ratios[1])
    whole = (min(ratios[0], floor[0]), max(ratios[1], floor[1]))
    drawn = svg.figure(width, _HEIGHT)
    if gap > CUT_SHARE * (whole[1] - whole[0]):
        for_ratios, for_one = _cut_axes(drawn, ratios, floor)
        positions = [speedup.estimate, 1.0]
    else:
        for_ratios = for_one = svg.axes(drawn, _LEFT, _RIGHT, _TOP, _BOTTOM)
        for_one.set_ylim(*whole)
        positions = _apart([speedup.estimate, 1.0], (whole[1] - whole[0]) * 0.1)
    for axes in drawn.axes:
        _panel(axes, speedup)
    lowest = min(drawn.axes, key=lambda axes: axes.get_position().y0)
    for axes in drawn.axes:
        axes.spines["bottom"].set_visible(axes is lowest)
        axes.tick_params(labelbottom=axes is lowest)
    svg.note(lowest, (1, 0), (8, -16), "pair", color=svg.MUTED)
    mean = f"{fmt.ratio(speedup.estimate)} mean"
    _margin_label(for_ratios, positions[0], mean, color=svg.INK, weight="bold")
    _margin_label(for_one, positions[1], "1 = as fast", color=svg.MUTED)
    return drawn


def _span(values: Iterable[float]) -> Span:
    """Where the finite ones of `values` lie, with a little room on both sides."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = max((high - low) * 0.12, 0.01 * abs(high))
    return low - room, high + room


def _cut_axes(drawn: Figure, ratios: Span, floor: Span) -> tuple[Axes, Axes]:
    """Axes for the ratios and for 1, the larger values above, heights by relative span.

    A panel takes 20 % of the height at least, so that its labels fit.
    """
    relative = [(high - low) / (high + low) for low, high in (ratios, floor)]
    share = min(0.8, max(0.2, relative[0] / sum(relative)))
    is_faster = ratios[0] > floor[0]
    room = _HEIGHT - _TOP - _BOTTOM - _CUT
    upper = room * (share if is_faster else 1 - share)
    first = svg.axes(drawn, _LEFT, _RIGHT, _TOP, _HEIGHT - _TOP - upper)
    second = svg.axes(drawn, _LEFT, _RIGHT, _TOP + upper + _CUT, _BOTTOM)
    middle = _HEIGHT - _TOP - upper - _CUT / 2
    for offset in (-2.5, 2.5):
        svg.line(drawn, (_LEFT - 6, middle + offset - 2), (_LEFT + 6, middle + offset + 2))
    for_ratios, for_one = (first, second) if is_faster else (second, first)
    for_ratios.set_ylim(*ratios)
    for_one.set_ylim(*floor)
    return for_ratios, for_one


def _panel(axes: Axes, speedup: Speedup) -> None:
    """Bands, lines and dots, as far as they lie within the limits of `axes`."""
    low, high = axes.get_ylim()

    def is_shown(value: float) -> bool:
        return low <= value <= high

    count = len(speedup.ratios)
    axes.grid(axis="x", visible=False)
    axes.set_xlim(0.4, count + 0.6)
    if is_shown(1):
        _band(axes, speedup.noise_floor, svg.OTHER, "noise-floor")
        axes.axhline(1, color=svg.MUTED, linewidth=1, gid="one")
    if is_shown(speedup.estimate):
        _band(axes, speedup.ci95, svg.OPTIMIZED, "interval")
        axes.axhline(speedup.estimate, color=svg.OPTIMIZED, linewidth=1.6, gid="estimate")
    for index, value in enumerate(speedup.ratios):
        if is_shown(value):
            axes.add_line(
                Line2D(
                    [index + 1],
                    [value],
                    marker="o",
                    linestyle="none",
                    markersize=8 if count <= 30 else 5,
                    markerfacecolor=svg.OPTIMIZED,
                    markeredgecolor=svg.PAPER,
                    markeredgewidth=1,
                    gid=f"pair-{index}",
                    clip_on=False,
                    zorder=3,
                )
            )
    steps = max(2, int(axes.get_window_extent().height / 45))
    axes.yaxis.set_major_locator(MaxNLocator(steps, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def _band(axes: Axes, span: Span, colour: str, gid: str) -> None:
    if all(map(math.isfinite, span)):
        axes.axhspan(*span, color=colour, alpha=0.28, linewidth=0).set_gid(gid)


def _margin_label(axes: Axes, position: float, text: str, **style: str) -> None:
    """`text` to the right of `axes`, level with `position`."""
    low, high = axes.get_ylim()
    svg.note(axes, (1, (position - low) / (high - low)), (8, 0), text, **style)


def _apart(values: list[float], gap: float) -> list[float]:
    """The two positions moved apart evenly until `gap` is between them, their order kept."""
    first, second = values
    short = gap - abs(first - second)
    if short <= 0:
        return values
    up = short / 2 if first >= second else -short / 2
    return [first + up, second - up]
