"""Where a step goes: one bar of the classes, and one of what was computed."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from fastmodel.harness.profile_records import ProfileReport
from fastmodel.harness.records import StepPart

from . import format as fmt
from . import svg

_MOST = len(svg.PARTS) - 1


def draw(report: ProfileReport, width: int) -> Figure | None:
    """Both bars are as long as the step; their parts are named below each."""
    bars = [
        ("Classes", [part for part in report.classes if part.share > 0]),
        ("What was computed", merged(report.kinds)),
    ]
    if not report.classes:
        return None
    columns = max(2, width // 200)
    heights = [64 + 18 * -(-len(parts) // columns) for _, parts in bars]
    drawn = svg.figure(width, sum(heights))
    top = 0.0
    for number, ((title, parts), height) in enumerate(zip(bars, heights, strict=True)):
        axes = svg.axes(drawn, 1, 1, top + 20, drawn.bbox.height - top - 46)
        axes.set_axis_off()
        axes.set_xlim(0, sum(part.share for part in parts) or 1)
        left = 0.0
        for index, part in enumerate(parts):
            colour = svg.PARTS[index % len(svg.PARTS)]
            (bar,) = axes.barh(0, part.share, 1, left=left, color=colour, edgecolor=svg.PAPER)
            bar.set_gid(f"bar-{number}-{index}")
            left += part.share
            column, row = index % columns, index // columns
            _key(drawn, part, colour, column * width / columns, top + 62 + 18 * row)
        svg.note(axes, (0, 1), (0, 10), title, weight="bold")
        top += height
    return drawn


def merged(parts: Sequence[StepPart]) -> list[StepPart]:
    """As many parts as there are colours; the rest in one."""
    if len(parts) <= _MOST + 1:
        return list(parts)
    rest = parts[_MOST:]
    left = StepPart("the rest", sum(p.time_s for p in rest), sum(p.share for p in rest))
    return [*parts[:_MOST], left]


def _key(drawn: Figure, part: StepPart, colour: str, x: float, y: float) -> None:
    from matplotlib.lines import Line2D

    from_below = drawn.bbox.height - y
    mark = Line2D([x + 8], [from_below], linestyle="none", marker="s", color=colour, markersize=9)
    svg.key(drawn, mark, (x + 18, from_below), f"{fmt.clean(part.name)} {part.share:.1%}")
