"""The roofline: what each operator achieved, under what the machine allows at its intensity.

Source: Williams, Waterman and Patterson, Roofline: an insightful visual performance model (2009).
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from fastmodel.harness.roofline_records import Ceilings, OperatorRow

from . import format as fmt
from . import svg

_MOST = 8


def shown(operators: Sequence[OperatorRow]) -> list[OperatorRow]:
    """The operators that have a place in the picture, the longest first."""
    known = [row for row in operators if row.flop_per_byte and row.gflop_per_s]
    return known[:_MOST]


def draw(
    operators: Sequence[OperatorRow],
    limits: Ceilings | None,
    width: int,
    beside: Sequence[OperatorRow] = (),
) -> Figure | None:
    """Intensity against rate, both logarithmic; areas grow with the share of the step.

    The scales leave room for the operators `beside` too, so that pictures of several steps compare.
    """
    rows = shown(operators)
    if not rows or limits is None:
        return None
    framed = [*rows, *shown(beside)]
    peak = max(limits.gemm_gflop_per_s, limits.conv_gflop_per_s)
    ridge = peak / limits.copy_gb_per_s
    keys = 18 * len(rows) + 12
    drawn = svg.figure(width, 300 + keys)
    axes = svg.axes(drawn, left=62, right=16, top=18, bottom=58 + keys)
    axes.set_xscale("log")
    axes.set_yscale("log")
    intensities = [row.flop_per_byte or 0.0 for row in rows]
    reach = [ridge, *(row.flop_per_byte or 0.0 for row in framed)]
    low, high = min(reach) / 3, max(reach) * 3
    axes.plot(
        [low, ridge, high],
        [low * limits.copy_gb_per_s, peak, peak],
        color=svg.INK,
        linewidth=1.5,
        gid="roof",
    )
    rates = [row.gflop_per_s or 0.0 for row in rows]
    axes.set_xlim(low, high)
    heights = [peak, *(row.gflop_per_s or 0.0 for row in framed)]
    axes.set_ylim(min([*heights, low * limits.copy_gb_per_s]) / 2, max(heights) * 2.2)
    svg.note(
        axes,
        (ridge, peak),
        (4, 10),
        f"{peak:,.0f} GFLOP/s, {limits.copy_gb_per_s:,.0f} GB/s",
        "data",
        color=svg.MUTED,
    )
    if limits.datasheet_gflop_per_s and limits.datasheet_gb_per_s:
        corner = limits.datasheet_gflop_per_s / limits.datasheet_gb_per_s
        axes.plot(
            [low, corner, max(high, corner)],
            [low * limits.datasheet_gb_per_s] + 2 * [limits.datasheet_gflop_per_s],
            color=svg.MUTED,
            linestyle="--",
            gid="datasheet",
        )
        axes.set_ylim(top=limits.datasheet_gflop_per_s * 2)
    for index, row in enumerate(rows):
        colour = svg.PARTS[index % len(svg.PARTS)]
        size = 40 + 900 * row.share
        axes.scatter(
            intensities[index],
            rates[index],
            s=size,
            color=colour,
            edgecolors=svg.INK,
            linewidths=0.6,
            zorder=3,
            gid=f"operator-{index}",
        )
        _key(drawn, index, len(rows), row, colour)
    axes.set_xlabel("FLOP per modelled byte")
    axes.set_ylabel("GFLOP/s")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.minorticks_off()
    return drawn


def _key(drawn: Figure, index: int, count: int, row: OperatorRow, colour: str) -> None:
    from matplotlib.lines import Line2D

    y = 12 + 18 * (count - 1 - index)
    mark = Line2D([10], [y], linestyle="none", marker="o", color=colour, markersize=9)
    roof = (
        "" if row.roofline_share is None else f", {fmt.percent(row.roofline_share, 0)} of the roof"
    )
    text = f"{row.name.rpartition('::')[2]}: {fmt.percent(row.share, 0)}{roof}"
    svg.key(drawn, mark, (22, y), fmt.shorten(text, int(drawn.bbox.width) // 7))
