"""The report as one offline HTML file: no script, no request, light, dark and print."""

from __future__ import annotations

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastmodel.harness.records import Report

from . import conditions, money, rooflines, summary, tables
from . import format as fmt
from .json_schema import ADAPTER
from .pictures import pictures, roofline_pictures

SHOWN_JSON_BYTES = 256 * 1024
"""Above this the JSON can be downloaded from the page, but is not printed on it as well."""

_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|ms|us|min|h|J|kJ|B|KiB|MiB|GiB)\b|%)")
_BREAK = re.compile(r"(?<=[(._/])(?=\w)")
_RANGE = re.compile(rf"(?<=\d){fmt.TO}(?=\d)")


def render_html(report: Report) -> str:
    """The report as one self-contained HTML page.

    Args:
        report: the record of one bench run; it is not changed.

    Returns:
        The whole page; the same report gives the same text.
    """
    page = environment()
    css = page.loader.get_source(page, "report.css")[0]  # type: ignore[union-attr]
    compact = ADAPTER.dump_json(report)
    shown = ADAPTER.dump_json(report, indent=2).decode()
    return page.get_template("report.html.j2").render(
        report=report,
        css=Markup(css),
        summary=summary,
        tables=tables,
        money=money,
        conditions=conditions,
        pictures=pictures(report),
        rooflines=rooflines,
        roofline_pictures=roofline_pictures(report),
        json_base64=base64.b64encode(compact).decode(),
        json_size=len(compact),
        json_text=shown if len(shown) <= SHOWN_JSON_BYTES else "",
    )


def environment() -> Environment:
    """Where the templates are, with everything escaped that is not said to be safe."""
    found = Environment(
        loader=PackageLoader("fastmodel.harness.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["prose"] = prose
    found.filters["breakable"] = breakable
    found.filters["svg"] = Markup  # made by svg.py, which serialises an XML tree
    return found


def prose(text: str) -> str:
    """`text` with numbers tied to their units, and ranges in one piece."""
    return _RANGE.sub(f"\u2060{fmt.TO}\u2060", _UNIT.sub("\u00a0", text))


def breakable(text: str) -> Markup:
    """`text`, escaped, with places to break a line after the punctuation of code."""
    return Markup("<wbr>").join(_BREAK.split(text))
