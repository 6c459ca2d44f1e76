"""A profile as one offline HTML page, in the bench report's dress."""

from __future__ import annotations

import base64
from collections.abc import Callable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from fastmodel.harness.profile_records import ProfileReport
from fastmodel.harness.roofline_records import OperatorRow

from . import classes_chart, roofline_chart, svg, tables, telemetry_chart
from . import format as fmt
from .html import breakable, prose
from .pictures import NARROW, WHOLE, Picture
from .tables import Cell, Table

_LEAST_SHARE = 0.001
"""Operators below are in the record, not on the page."""
_ADAPTER: TypeAdapter[ProfileReport] = TypeAdapter(ProfileReport)


def render_profile(report: ProfileReport) -> str:
    """The profile as one self-contained HTML page.

    Args:
        report: the record; it is not changed.

    Returns:
        The whole page; the same record gives the same text.
    """
    environment = Environment(
        loader=PackageLoader("fastmodel.harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    environment.filters["breakable"] = breakable
    environment.filters["svg"] = Markup  # made by svg.py, which serialises an XML tree
    css = environment.loader.get_source(environment, "report.css")[0]  # type: ignore[union-attr]
    compact = _ADAPTER.dump_json(report)
    return environment.get_template("profile.html.j2").render(
        report=report,
        css=Markup(css),
        title=_title(report),
        sentence=_sentence(report),
        remarks=_remarks(report),
        pictures=_pictures(report),
        advice=_advice(report),
        operators=_operators(report),
        sync_points=_sync_points(report),
        telemetry=_telemetry(report),
        environment=tables.environment(report),  # type: ignore[arg-type]  # reads its environment alone
        json_base64=base64.b64encode(compact).decode(),
        json_size=len(compact),
    )


def _title(report: ProfileReport) -> str:
    return fmt.clean(" ".join(report.command)) or "fastmodel profile"


def _sentence(report: ProfileReport) -> str:
    if report.step_time is None:
        return f"{report.steps_seen} training steps were seen."
    text = f"A step takes {fmt.seconds(report.step_time.median_s)}"
    if report.kinds:
        longest = [part for part in report.kinds if part.name != "outside operators"][:2]
        text += ": " + ", ".join(f"{part.name} {part.share:.0%}" for part in longest)
    if report.advice:
        first = report.advice[0]
        text += f". First advice: {first.title}, estimated to save {first.gain_share:.0%}"
    return text + "."


def _remarks(report: ProfileReport) -> list[str]:
    found = [f"A step ends with {report.step_boundary}; {report.steps_seen} steps were seen."]
    time = report.step_time
    if time is not None:
        found.append(
            f"Timed without the profiler: {time.steps} steps, 90 % of them between"
            f" {fmt.seconds(time.low_s)} and {fmt.seconds(time.high_s)}; in the data loader"
            f" {fmt.seconds(time.loader_s)} of the mean step."
        )
    if report.profiled_step_s is not None:
        found.append(
            f"Under the profiler a step took {fmt.seconds(report.profiled_step_s)}: shares are of that"
            " step, gains are of the one without."
        )
    if report.trace_file is not None:
        found.append(
            f"Trace: {report.trace_file}, {fmt.size(report.trace_bytes or 0)}; open it in"
            " ui.perfetto.dev."
        )
    return found + report.notes


def _pictures(report: ProfileReport) -> dict[str, Picture]:
    absent = report.incomplete_reason or "it was not asked for"

    def picture(
        name: str, draw: Callable[[int], Figure | None], heading: str, caption: str, why: str
    ) -> Picture:
        texts = []
        for variant, width in (("wide", WHOLE), ("narrow", NARROW)):
            with svg.drawing(f"{name}-{variant}"):
                drawn = draw(width)
                label = f"{heading}. {caption}"
                texts.append(svg.to_svg(drawn, f"{name}-{variant}", label) if drawn else "")
        return Picture(heading, caption, texts[0], texts[1], why)

    source = "" if report.telemetry is None else f" Source: {report.telemetry.source}."
    return {
        "classes": picture(
            "classes",
            lambda width: classes_chart.draw(report, width),
            "Where a step goes",
            "Every microsecond of the profiled steps is in exactly one class.",
            absent,
        ),
        "roofline": picture(
            "roofline",
            lambda width: roofline_chart.draw(report.operators, report.ceilings, width),
            "Roofline",
            "Line: what this machine reached in a large product or convolution, and in a large copy"
            " (dashed: the datasheet). Dots: operators, larger where they take more of the step; each with"
            " its share of the step and of the roof."
            " Bytes are modelled, inputs and outputs once each: above the line the data stayed in cache.",
            report.missing.get("modelled", absent),
        ),
        "telemetry": picture(
            "telemetry",
            lambda width: telemetry_chart.draw(report.telemetry, width),
            "Telemetry over time",
            "Each from zero." + source,
            "nothing could be read" if report.telemetry else "it was turned off",
        ),
    }


def _advice(report: ProfileReport) -> Table:
    rows = [
        [
            Cell(fmt.clean(item.title), detail=fmt.clean(", ".join(item.where)), is_prose=True),
            Cell(
                f"{fmt.milliseconds(item.gain_s)} ms", detail=f"{item.gain_share:.1%} of the step"
            ),
            Cell(fmt.clean(item.action), is_prose=True),
            Cell(fmt.clean(f"{item.how}; {item.evidence}"), is_prose=True),
        ]
        for item in report.advice
    ]
    remarks = ["Pieces of advice on the same part of the step exclude one another."]
    if report.estimate is not None and report.step_time is not None:
        remarks.append(
            f"All that fastmodel would replace, together: {fmt.seconds(report.step_time.median_s)} to"
            f" {fmt.seconds(report.estimate.step_s)}, {report.estimate.speedup:.2f} times as fast."
        )
        if report.estimate.leaves_out:
            remarks.append(f"That leaves out {report.estimate.leaves_out}.")
    return Table(
        "advice",
        "What to change, by estimated gain",
        ["change", "saves", "how", "estimated from"],
        rows,
        numeric=frozenset({1}),
        remarks=remarks if rows else [],
        absent=report.missing.get(
            "advice", "nothing is estimated to save half a per cent of the step"
        ),
    )


def _operators(report: ProfileReport) -> Table:
    rows = [_operator(row) for row in report.operators if row.share >= _LEAST_SHARE]
    limits = report.ceilings
    remarks = []
    if limits is not None:
        remarks.append(
            f"Roof, measured here in {limits.dtype}: product {fmt.significant(limits.gemm_gflop_per_s)},"
            f" convolution {fmt.significant(limits.conv_gflop_per_s)} GFLOP/s,"
            f" copy {fmt.significant(limits.copy_gb_per_s)} GB/s."
        )
        if limits.datasheet_source is not None:
            remarks.append(
                f"Datasheet: {limits.datasheet_gflop_per_s} GFLOP/s,"
                f" {limits.datasheet_gb_per_s} GB/s ({limits.datasheet_source})."
            )
    columns = ["operator", "calls", "ms", "share", "GFLOP", "modelled MB", "GFLOP/s", "GB/s"]
    return Table(
        "operators",
        "Operators",
        [*columns, "of roof"],
        rows,
        numeric=frozenset(range(1, 9)),
        remarks=remarks,
        absent=report.missing.get("operators", "none was seen"),
    )


def _operator(row: OperatorRow) -> list[Cell]:
    def number(name: str, divisor: float = 1.0) -> Cell:
        value = getattr(row, name)
        if value is None:
            reason = row.missing.get(name) or row.missing.get("flops") or "not known"
            return tables.missing(reason)
        return Cell(fmt.significant(value / divisor))

    roof = (
        tables.missing(row.missing.get("roofline_share", "not known"))
        if row.roofline_share is None
        else Cell(f"{row.roofline_share:.0%}")
    )
    return [
        tables.text(row.name),
        Cell(f"{row.calls:g}"),
        Cell(fmt.milliseconds(row.time_s)),
        Cell(f"{row.share:.1%}"),
        number("flops", 1e9),
        number("modelled_bytes", 1e6),
        number("gflop_per_s"),
        number("modelled_gb_per_s"),
        roof,
    ]


def _sync_points(report: ProfileReport) -> Table:
    rows = [
        [
            Cell(fmt.clean(point.where), is_prose=True),
            Cell(fmt.clean(point.code), is_prose=True),
            Cell(f"{point.calls:g}"),
            tables.missing(point.missing.get("time_s", "not known"))
            if point.time_s is None
            else Cell(fmt.seconds(point.time_s)),
        ]
        for point in report.sync_points
    ]
    return Table(
        "sync",
        "Lines that wait for a tensor's value",
        ["line", "code", "calls a step", "time a step"],
        rows,
        numeric=frozenset({2, 3}),
        absent=report.missing.get("modelled", "no line does"),
    )


def _telemetry(report: ProfileReport) -> Table:
    telemetry = report.telemetry
    if telemetry is None:
        return Table("telemetry", "Telemetry", [], [], absent="it was turned off")

    def value(number: float | None) -> Cell:
        return Cell("") if number is None else Cell(fmt.significant(number))

    rows = [
        [tables.text(one.name), value(one.mean), value(one.maximum), value(one.total)]
        for one in telemetry.series
    ]
    rows += [
        [tables.text(name), value(number), Cell(""), Cell("")]
        for name, number in telemetry.window.items()
    ]
    rows += [
        [tables.text(name), tables.missing(reason), Cell(""), Cell("")]
        for name, reason in telemetry.missing.items()
    ]
    remarks = [f"{name}: {fact}." for name, fact in telemetry.facts.items()]
    return Table(
        "telemetry",
        f"Telemetry, source: {telemetry.source}",
        ["quantity", "mean (of a counter, a second)", "most", "rise over the window"],
        rows,
        numeric=frozenset({1, 2, 3}),
        remarks=[fmt.clean(remark) for remark in remarks],
        absent="nothing could be read",
    )
