"""The picture of what each lever adds: from the plain step's time down to the optimized one's.

A lever's bar is the time that the step would take longer without it. These times need not add up to the whole
gain: two levers may help each other, or do the same work; the bar "together" is the difference.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from fastmodel.harness.records import Report

from . import format as fmt
from . import svg

_ROW = 44


def draw(report: Report, width: int) -> Figure | None:
    """One bar a lever between the two steps; None where none was measured."""
    rows = steps(report)
    if not rows:
        return None
    drawn = svg.figure(width, _ROW * len(rows) + 4)
    axes = svg.axes(drawn, left=1, right=92, top=0, bottom=4)
    axes.set_axis_off()
    axes.set_xlim(min(0.0, *(start for _, start, _ in rows)), max(end for _, _, end in rows))
    axes.set_ylim(len(rows) * _ROW, 0)
    for index, (name, start_ms, end_ms) in enumerate(rows):
        middle = index * _ROW + 31
        is_whole = index in (0, len(rows) - 1)
        colour = svg.OTHER
        if is_whole:
            colour = svg.BASELINE if index == 0 else svg.OPTIMIZED
        low, high = sorted((start_ms, end_ms))
        axes.barh(middle, high - low, 14, left=low, color=colour, gid=f"lever-{index}")
        if not is_whole:  # where the next bar goes on
            axes.plot(
                (start_ms, start_ms), (middle - 7, middle + _ROW), color=svg.RULE, linewidth=1
            )
        weight = "bold" if is_whole else "normal"
        axes.text(0, middle - 13, fmt.shorten(name, width // 9), va="baseline", weight=weight)
        time = end_ms if is_whole else start_ms - end_ms
        shown = f"{time:.2f} ms" if is_whole else f"{time:+.2f} ms"
        svg.note(axes, (high, middle), (9, 0), shown, "data", weight=weight)
    return drawn


def steps(report: Report) -> list[tuple[str, float, float]]:
    """Name, start and end of each bar in ms, from the plain step to the optimized one.

    A lever's bar ends where the one before it starts.
    """
    found = report.waterfall
    if found is None:
        return []
    rows = [("plain step", 0.0, found.plain_time_s * 1e3)]
    at_ms = found.plain_time_s * 1e3
    saved = [
        (lever.name, found.optimized_time_s * (lever.ratio.estimate - 1) * 1e3)
        for lever in found.levers
    ]
    for name, saved_ms in sorted(saved, key=lambda one: -one[1]):
        rows.append((name, at_ms - saved_ms, at_ms))
        at_ms -= saved_ms
    rows.append(("together", found.optimized_time_s * 1e3, at_ms))
    return [*rows, ("with all levers", 0.0, found.optimized_time_s * 1e3)]
