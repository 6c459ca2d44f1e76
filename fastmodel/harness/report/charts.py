"""Pictures of the arms: throughput, loss and accuracy over time, and the parts of a step.

Each function draws a report at a width in pixels, or returns None where there is nothing to draw.
Every mark that stands for a value carries a gid, which becomes its id in the SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastmodel.harness.records import Epoch, Report, StepPart

from . import format as fmt
from . import svg, tables
from .roles import ordered_arms, role

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Marker shapes tell the arms apart where colours cannot."""

Series = tuple[str, Callable[[Epoch], float | None], Literal["-", "--"]]
"""Name, value of an epoch (None where it was not finite), line style."""


def throughput(report: Report, width: int) -> Figure | None:
    """One bar an arm from zero, its interval, its name above and its value beside it."""
    rates = [
        (arm, arm.throughput_samples_per_s)
        for arm in ordered_arms(report)
        if arm.throughput_samples_per_s is not None
        and math.isfinite(arm.throughput_samples_per_s.estimate)
    ]
    if not rates:
        return None
    row = 48
    drawn = svg.figure(width, row * len(rates) + 4)
    axes = svg.axes(drawn, left=1, right=76, top=0, bottom=4)
    axes.set_axis_off()
    ends = [max(_finite([rate.estimate, *rate.ci95])) for _, rate in rates]
    axes.set_xlim(0, max(ends) or 1)
    axes.set_ylim(len(rates) * row, 0)
    for index, ((arm, rate), end) in enumerate(zip(rates, ends, strict=True)):
        kind = role(report, arm)
        weight = "bold" if kind == "optimized" else "normal"
        middle = index * row + 34
        _bar(axes, 0, rate.estimate, middle, 16, svg.ROLE_COLOURS[kind], f"arm-{index}")
        axes.plot(
            rate.ci95,
            (middle, middle),
            color=svg.INK,
            linewidth=1.5,
            marker="|",
            markersize=9,
            markeredgewidth=1.5,
            gid=f"interval-{index}",
            clip_on=False,
        )
        name = fmt.shorten(arm.name, width // 9)
        axes.text(0, middle - 14, name, va="baseline", weight=weight)
        svg.note(axes, (end, middle), (9, 0), fmt.throughput(rate.estimate), "data", weight=weight)
    return drawn


def loss(report: Report, width: int) -> Figure | None:
    """Validation loss (solid) and training loss (dashed) of each trained arm, from zero."""
    drawn = _over_time(
        report,
        width,
        [
            ("validation", lambda epoch: epoch.validation_loss, "-"),
            ("training", lambda epoch: epoch.train_loss, "--"),
        ],
    )
    if drawn is not None:
        axes = drawn.axes[0]
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn


def accuracy(report: Report, width: int) -> Figure | None:
    """Validation accuracy of each trained arm."""
    drawn = _over_time(report, width, [("validation", lambda e: e.validation_accuracy, "-")])
    return _as_percent(drawn)


def accuracy_over_money(report: Report, width: int) -> Figure | None:
    """The same over what the training time until then cost; None without a rate."""
    if report.cost_rate is None:
        return None
    usd_per_s = report.cost_rate.rate_usd_per_h / 3600
    series: list[Series] = [("money", lambda e: e.validation_accuracy, "-")]
    return _as_percent(_over_time(report, width, series, usd_per_s))


def _as_percent(drawn: Figure | None) -> Figure | None:
    if drawn is not None:
        axes = drawn.axes[0]
        low, high = axes.get_ylim()
        axes.set_ylim(low, min(high, 1.0 + (high - low) * 0.02))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:g} %"))
    return drawn


def steps(report: Report, width: int) -> Figure | None:
    """One stacked bar an arm, all from zero; colours are those of the table's swatches."""
    arms = [arm for arm in ordered_arms(report) if arm.step_parts]
    totals = [sum(part.time_s for part in arm.step_parts) for arm in arms]
    if not _finite(totals):
        return None
    order = {name: index for index, name in enumerate(tables.step_part_names(report))}
    row = 76
    drawn = svg.figure(width, row * len(arms) + 4)
    axes = svg.axes(drawn, left=1, right=86, top=0, bottom=4)
    axes.set_axis_off()
    longest = max(_finite(totals)) or 1.0
    axes.set_xlim(0, longest)
    axes.set_ylim(len(arms) * row, 0)
    pixels = (width - 87) / longest
    for index, (arm, total) in enumerate(zip(arms, totals, strict=True)):
        middle = index * row + 48
        start = 0.0
        parts = sorted(arm.step_parts, key=lambda part: order[part.name])
        for number, part in enumerate(parts):
            colour = svg.PARTS[tables.part_colour(order[part.name])]
            gid = f"part-{index}-{number}"
            _bar(axes, start, part.time_s, middle, 40, colour, gid, edgecolor=svg.PAPER)
            _segment_label(axes, start + part.time_s / 2, middle, part, part.time_s * pixels)
            start += part.time_s
        axes.text(0, middle - 27, fmt.shorten(arm.name, width // 9), va="baseline")
        text = f"{fmt.milliseconds(total)} ms"
        svg.note(axes, (total, middle), (7, 0), text, "data", weight="bold")
    return drawn


def _segment_label(axes: Axes, x: float, y: float, part: StepPart, room: float) -> None:
    """The part's name over its milliseconds where both fit, or else the latter, or else nothing."""
    name, value = fmt.clean(part.name), fmt.milliseconds(part.time_s)
    glyph = 6.6  # pixels of a mean character at size 11, in the widest usual font

    def fits(text: str) -> bool:
        return len(text) * glyph + 8 < room

    style: dict[str, Any] = {
        "ha": "center",
        "va": "center_baseline",
        "color": svg.ON_PART,
        "size": 11,
    }
    if fits(name) and fits(value):
        axes.text(x, y - 8, name, **style)
        axes.text(x, y + 8, value, **style)
    elif fits(value):
        axes.text(x, y, value, **style)


def _over_time(
    report: Report, width: int, series: list[Series], usd_per_s: float | None = None
) -> Figure | None:
    """Lines over the training time so far, one marker an epoch; arms are named above the axes.

    With a rate the time is turned into money.
    """
    trained = [arm for arm in ordered_arms(report) if arm.epochs]
    if not _finite(value(e) for arm in trained for e in arm.epochs for _, value, _ in series):
        return None
    head = 18 * (len(trained) + (len(series) > 1)) + 14
    drawn = svg.figure(width, 206 + head)
    axes = svg.axes(drawn, left=56, right=16, top=head, bottom=34)
    longest = max(arm.epochs[-1].elapsed_train_time_s for arm in trained)
    unit, divisor = (" min", 60.0) if longest > 300 else (" s", 1.0)
    if usd_per_s is not None:
        # In thousandths where it is little, so that the axis needs no row of noughts.
        unit, divisor = ("", 1 / usd_per_s)
        if longest * usd_per_s < 0.1:
            unit, divisor = (" m$", 1 / usd_per_s / 1e3)
    for number, arm in enumerate(trained):
        style: dict[str, Any] = {
            "color": svg.ROLE_COLOURS[role(report, arm)],
            "marker": MARKERS[number % len(MARKERS)],
            "markeredgecolor": svg.PAPER,
            "markersize": 8,
        }
        for name, value, line in series:
            points = [(e.elapsed_train_time_s / divisor, value(e)) for e in arm.epochs]
            finite = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
            axes.plot(
                [x for x, _ in finite],
                [y for _, y in finite],
                linestyle=line,
                linewidth=2,
                gid=f"{name}-{number}",
                clip_on=False,
                **style,
            )
        y = _key_y(drawn, number)
        mark = Line2D([8], [y], linestyle="none", **style)
        svg.key(drawn, mark, (18, y), fmt.shorten(arm.name, width // 9))
    if len(series) > 1:
        y = _key_y(drawn, len(trained))
        for column, (name, _, line) in enumerate(series):
            left = 4 + column * 110
            mark = Line2D([left, left + 22], [y, y], linestyle=line, linewidth=2, color=svg.MUTED)
            svg.key(drawn, mark, (left + 30, y), name)
    axes.set_xlim(0, longest / divisor * 1.02 or 1)
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_locator(MaxNLocator(7 if width > 400 else 4, steps=[1, 2, 5, 10]))

    def label(value: float) -> str:
        return f"${value:g}" if usd_per_s is not None and not unit else f"{value:g}{unit}"

    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    return drawn


def _key_y(drawn: Figure, row: int) -> float:
    return drawn.bbox.height - 9 - 18 * row


def _bar(
    axes: Axes,
    left: float,
    length: float,
    y: float,
    thickness: float,
    colour: str,
    gid: str,
    **edge: Any,
) -> None:
    (bar,) = axes.barh(y, length, thickness, left=left, color=colour, **edge)
    bar.set_gid(gid)


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
