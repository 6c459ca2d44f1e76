"""Each arm's operators under the roof that was measured in the same run: pictures and table."""

from __future__ import annotations

from collections.abc import Iterator

from fastmodel.harness.records import Arm, Report
from fastmodel.harness.roofline_records import OperatorRow

from . import format as fmt
from . import roofline_chart
from .roles import ordered_arms, why
from .tables import Cell, Table, absent_reason, missing, text

CAPTION = (
    "Line: what this machine reached in a large product or convolution, and in a large copy. Dots: operators,"
    " larger where they take more of the step; each with its share of the step and of the roof. Bytes are"
    " modelled, inputs and outputs once each: above the slope the data stayed in cache. FLOPs are those of"
    " the dense formula: above the flat line zeros were skipped."
)


def drawn(report: Report) -> list[Arm]:
    """The arms that have a picture, the optimized one first."""
    if report.ceilings is None:
        return []
    return [arm for arm in ordered_arms(report) if roofline_chart.shown(arm.operators)]


def everything(report: Report) -> list[OperatorRow]:
    """The operators of all pictures, for their common scales."""
    return [row for arm in drawn(report) for row in roofline_chart.shown(arm.operators)]


def description(arm: Arm) -> str:
    """What an arm's picture shows, in words."""
    return "; ".join(
        f"{fmt.clean(row.name)} at {fmt.significant(row.flop_per_byte or 0.0)} FLOP per modelled byte"
        f" reaches {fmt.significant(row.gflop_per_s or 0.0)} GFLOP/s"
        for row in roofline_chart.shown(arm.operators)
    )


def table(report: Report) -> Table:
    """The same as figures, one operator a row; what has no FLOPs is held against the copy alone."""
    limits = report.ceilings
    remarks = []
    if limits is not None:
        remarks.append(
            f"Roof, measured in this run in {limits.dtype}:"
            f" product {fmt.significant(limits.gemm_gflop_per_s)},"
            f" convolution {fmt.significant(limits.conv_gflop_per_s)} GFLOP/s,"
            f" copy {fmt.significant(limits.copy_gb_per_s)} GB/s. Bytes are modelled: inputs and outputs,"
            " once each. FLOPs are those of the dense formula. Above 100 %, data stayed in cache or zeros"
            " were skipped."
        )
    columns = ["Arm", "Operator", "ms", "Share", "GFLOP/s", "FLOP per modelled byte", "Of the roof"]
    return Table(
        "rooflines",
        "Roofline",
        columns,
        list(_rows(report)),
        numeric=frozenset(range(2, len(columns))),
        remarks=remarks,
        absent=absent_reason(report, "operators", "the run was made by a version that drew none"),
    )


def _rows(report: Report) -> Iterator[list[Cell]]:
    for arm in ordered_arms(report):
        if not arm.operators and any(other.operators for other in report.arms.values()):
            reason = missing(why(arm.missing, "operators"))
            yield [text(arm.name), reason, *[Cell("")] * 5]
        for row in arm.operators:
            yield [
                text(arm.name),
                text(row.name),
                Cell(fmt.milliseconds(row.time_s)),
                Cell(fmt.percent(row.share, 0)),
                _figure(row, row.gflop_per_s),
                _figure(row, row.flop_per_byte),
                missing(why(row.missing, "roofline_share"))
                if row.roofline_share is None
                else Cell(fmt.percent(row.roofline_share, 0)),
            ]


def _figure(row: OperatorRow, value: float | None) -> Cell:
    """A quotient with the FLOPs above it."""
    return missing(why(row.missing, "flops")) if value is None else Cell(fmt.significant(value))
