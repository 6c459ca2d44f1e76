"""A profile as tables for a terminal. Reads the record, measures nothing."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fastmodel.harness.profile_records import Advice, ProfileReport

_NONE = "-"
_OPERATORS, _KINDS = 12, 10


def profile_tables(report: ProfileReport) -> list[RenderableType]:
    """Step, classes, kinds, operators, advice, lines that wait, telemetry: those that have something."""
    return list(_tables(report))


def _tables(report: ProfileReport) -> Iterator[RenderableType]:
    yield Text(_head(report), style="bold")
    if report.incomplete_reason is not None:
        yield Text(f"INCOMPLETE: {report.incomplete_reason}", style="bold")
    if report.classes:
        yield _shares(report)
    if report.operators:
        yield _operators(report)
    if report.classes:
        yield _advice(report)
    if report.sync_points:
        yield _sync_points(report)
    if report.telemetry is not None:
        yield _telemetry(report)
    for note in report.notes:
        yield Text(f"note: {note}")


def _head(report: ProfileReport) -> str:
    if report.step_time is None:
        return f"{report.steps_seen} steps seen"
    time = report.step_time
    text = (
        f"step: {_ms(time.median_s)} ms (90 % between {_ms(time.low_s)} and {_ms(time.high_s)}),"
        f" {time.steps} steps timed without the profiler"
    )
    if report.profiled_step_s is not None:
        text += f"; {_ms(report.profiled_step_s)} ms under it, {report.phases.active} steps"
    return f"{text}; a step ends with {report.step_boundary}"


def _shares(report: ProfileReport) -> Table:
    table = Table(title="Where a step goes, under the profiler", title_justify="left")
    table.add_column("class")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    table.add_column("what was computed")
    for heading in ("ms", "share"):
        table.add_column(heading, justify="right")
    left = [(p.name, _ms(p.time_s), f"{p.share:.1%}") for p in report.classes]
    right = [(p.name, _ms(p.time_s), f"{p.share:.1%}") for p in report.kinds[:_KINDS]]
    for index in range(max(len(left), len(right))):
        one = left[index] if index < len(left) else ("", "", "")
        other = right[index] if index < len(right) else ("", "", "")
        table.add_row(*one, *other)
    return table


def _operators(report: ProfileReport) -> Table:
    limits = report.ceilings
    caption = None
    if limits is not None:
        caption = (
            f"of roof: achieved over attainable at the operator's intensity; measured here, {limits.dtype}: "
            f"product {limits.gemm_gflop_per_s:,.0f} and convolution {limits.conv_gflop_per_s:,.0f} GFLOP/s, "
            f"copy {limits.copy_gb_per_s:.0f} GB/s. MB are modelled: inputs and outputs, once each; above "
            "100 % they stayed in cache."
        )
    table = Table(title="Operators", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("operator", no_wrap=True)
    for heading in ("calls", "ms", "share", "GFLOP", "MB", "GFLOP/s", "GB/s", "of roof"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.operators[:_OPERATORS]:
        table.add_row(
            escape(row.name.removeprefix("aten::")),
            f"{row.calls:g}",
            _ms(row.time_s),
            f"{row.share:.1%}",
            _number(row.flops, 1e9),
            _number(row.modelled_bytes, 1e6),
            _number(row.gflop_per_s),
            _number(row.modelled_gb_per_s),
            _NONE if row.roofline_share is None else f"{row.roofline_share:.0%}",
        )
    return table


def _advice(report: ProfileReport) -> Table:
    caption = "Gains of pieces with the same target exclude one another."
    if report.estimate is not None and report.step_time is not None:
        caption += (
            f" All of fastmodel's together: {_ms(report.step_time.median_s)} ms to"
            f" {_ms(report.estimate.step_s)} ms, {report.estimate.speedup:.2f} times as fast."
        )
        if report.estimate.leaves_out:
            caption += f" It leaves out {report.estimate.leaves_out}."
    if not report.advice:
        caption = "Nothing is estimated to save half a per cent of the step."
    table = Table(title="Advice", title_justify="left", caption=caption, caption_justify="left")
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("what", overflow="fold")
    table.add_column("how it was estimated", overflow="fold")
    for item in report.advice:
        table.add_row(_gain(item), _what(item), escape(f"{item.how}; {item.evidence}"))
    return table


def _gain(item: Advice) -> str:
    return f"{_ms(item.gain_s)} ms\n{item.gain_share:.1%}"


def _what(item: Advice) -> str:
    where = f"\n({', '.join(item.where)})" if item.where else ""
    return escape(f"{item.title}{where}\n{item.action}")


def _sync_points(report: ProfileReport) -> Table:
    table = Table(title="Lines that wait for a tensor's value", title_justify="left")
    table.add_column("line", overflow="fold")
    table.add_column("code", overflow="fold")
    for heading in ("calls", "us a step"):
        table.add_column(heading, justify="right", no_wrap=True)
    for point in report.sync_points:
        time = _NONE if point.time_s is None else f"{point.time_s * 1e6:,.1f}"
        table.add_row(escape(point.where), escape(point.code), f"{point.calls:g}", time)
    return table


def _telemetry(report: ProfileReport) -> Table:
    telemetry = report.telemetry
    assert telemetry is not None
    missing = [f"{name}: {reason}" for name, reason in telemetry.missing.items()]
    table = Table(
        title=f"Telemetry, source {telemetry.source}, {telemetry.duration_s:.1f} s",
        title_justify="left",
        caption=escape("\n".join(missing)) or None,
        caption_justify="left",
    )
    for heading in ("quantity", "mean", "most", "over the window"):
        table.add_column(heading, justify="left" if heading == "quantity" else "right")
    for one in telemetry.series:
        table.add_row(one.name, _plain(one.mean), _plain(one.maximum), _plain(one.total))
    for name, value in telemetry.window.items():
        table.add_row(name, _plain(value), _NONE, _NONE)
    return table


def _ms(time_s: float) -> str:
    return f"{time_s * 1e3:,.2f}"


def _number(value: float | None, divisor: float = 1.0) -> str:
    if value is None:
        return _NONE
    value /= divisor
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _plain(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
