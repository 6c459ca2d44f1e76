"""The report as Markdown: plain tables that read well in a terminal and on a code host."""

from __future__ import annotations

import re

from fastmodel.harness.records import Report

from . import conditions, money, rooflines, summary, tables
from .tables import Cell, Table

_SPECIAL = re.compile(r"([\\`*\[\]|~])")


def escape(text: str) -> str:
    """`text` as literal Markdown: no HTML, no markup, no table border."""
    plain = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", plain)


def render_markdown(report: Report) -> str:
    """The report as Markdown text.

    Args:
        report: the record of one bench run; it is not changed.

    Returns:
        The whole document; the same report gives the same text.
    """
    blocks = [f"# {escape(summary.title(report))}"]
    warning = summary.incomplete(report)
    if warning is not None:
        blocks.append(f"> **{escape(warning)}**")
    blocks.append(f"**{escape(summary.sentence(report))}**")
    blocks += [escape(note) for note in summary.notes(report)]
    figures = summary.figures(report)
    if figures:
        lines = (
            f"- {escape(figure.label)}: **{escape(figure.value)}**"
            + (f" ({escape(figure.detail)})" if figure.detail else "")
            for figure in figures
        )
        blocks += ["## Headline figures", "\n".join(lines)]
    for build in (
        tables.arms,
        *([conditions.failures] if report.failures else []),
        money.costs,
        *([money.other_prices] if len(money.other_prices(report).rows) > 1 else []),
        tables.pairs,
        tables.epochs,
        tables.steps,
        rooflines.table,
        tables.gate,
        tables.swaps,
        conditions.rest,
        conditions.disturbances,
        tables.environment,
        tables.method,
    ):
        blocks += section(build(report))
    blocks += ["## Raw data", "Every raw sample is in `report.json`, next to this file."]
    return "\n\n".join(blocks) + "\n"


def section(table: Table) -> list[str]:
    """A table under its title, with its footnotes and remarks, as blocks of text."""
    blocks = [f"## {escape(table.title)}"]
    if not table.rows:
        return [*blocks, escape(f"None: {table.absent}.")]
    prose = [row for row in table.rows if any(cell.is_prose for cell in row)]
    for row in prose:  # too wide for a column of text
        pairs = zip(table.columns[1:], row[1:], strict=True)
        blocks.append("\n".join(f"- {escape(name)}: {_cell(table, cell)}" for name, cell in pairs))
    blocks.append(_grid(table, [row for row in table.rows if row not in prose]))
    if table.footnotes:
        notes = (f"- [{n}] {escape(why)}" for n, why in enumerate(table.footnotes, start=1))
        blocks.append("\n".join(notes))
    return blocks + [escape(remark) for remark in table.remarks]


def _grid(table: Table, rows: list[list[Cell]]) -> str:
    """`rows` with columns padded to one width, so that the source reads as a table too."""
    header = [escape(column) for column in table.columns]
    body = [[_cell(table, cell) for cell in row] for row in rows]
    widths = [max(3, *map(len, column)) for column in zip(header, *body, strict=True)]

    def line(cells: list[str]) -> str:
        padded = (
            cell.rjust(width) if index in table.numeric else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join(
        "-" * (width + 1) + (":" if index in table.numeric else "-")
        for index, width in enumerate(widths)
    )
    return "\n".join([line(header), f"|{rule}|", *map(line, body)])


def _cell(table: Table, cell: Cell) -> str:
    text = escape(cell.text)
    if cell.why:
        text += f" [{table.mark(cell)}]"
    return f"{text} ({escape(cell.detail)})" if cell.detail else text
