"""Matplotlib figures as inline SVG that takes its colours and fonts from the page's CSS.

Figures are drawn in stand-in colours, each of which becomes a CSS variable, so that one SVG serves
light, dark and print. Ids are made unique to the page and the same on every run.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import IdentityTransform

from . import format as fmt

INK = "#0d0001"
MUTED = "#0d0002"
RULE = "#0d0003"
PAPER = "#0d0004"
OPTIMIZED = "#0d0005"
BASELINE = "#0d0006"
OTHER = "#0d0007"
ON_PART = "#0d0008"
PARTS = tuple(f"#0d001{n}" for n in range(9))
"""Stand-ins for the operator classes of a step, the longest first."""

_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    OPTIMIZED: "--optimized",
    BASELINE: "--baseline",
    OTHER: "--other",
    ON_PART: "--on-part",
    **{colour: f"--part-{n}" for n, colour in enumerate(PARTS)},
}
ROLE_COLOURS = {"optimized": OPTIMIZED, "baseline": BASELINE, "other": OTHER}

TEXT_SIZE = 12
_SVG = "http://www.w3.org/2000/svg"
_XLINK_HREF = "{http://www.w3.org/1999/xlink}href"
_COLOUR = re.compile(r"#0d00[0-9a-f]{2}")
_FONT = re.compile(r"font: (?:(\w+) )?([0-9.]+)px [^;]*")

_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": TEXT_SIZE,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": False,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 9,
    "ytick.major.pad": 8,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """Matplotlib's own defaults under our style, whatever the user's matplotlibrc says."""
    style = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.style.context(["default", style]), warnings.catch_warnings():
        # The browser draws the text, so a glyph that matplotlib's font lacks does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(width: float, height: float) -> Figure:
    """An empty figure whose SVG measures `width` x `height` user units."""
    return Figure(figsize=(width / 72, height / 72), dpi=72)


def axes(drawn: Figure, left: float, right: float, top: float, bottom: float) -> Axes:
    """Axes that leave these margins, in user units."""
    width, height = drawn.bbox.width, drawn.bbox.height
    inner = (width - left - right) / width, (height - top - bottom) / height
    return drawn.add_axes((left / width, bottom / height, *inner))


def note(
    on: Axes,
    at: tuple[float, float],
    offset: tuple[float, float],
    text: str,
    coordinates: str = "axes fraction",
    **style: Any,
) -> None:
    """`text` starting `offset` user units from the point `at`, inside the axes or not."""
    on.annotate(
        text,
        at,
        offset,
        xycoords=coordinates,
        textcoords="offset points",
        va="center_baseline",
        annotation_clip=False,
        **style,
    )


def line(drawn: Figure, start: tuple[float, float], end: tuple[float, float]) -> None:
    """A thin straight line between two points in user units, from the lower left corner."""
    drawn.add_artist(
        Line2D(
            (start[0], end[0]),
            (start[1], end[1]),
            color=MUTED,
            linewidth=1,
            transform=IdentityTransform(),
        )
    )


def key(drawn: Figure, mark: Line2D, at: tuple[float, float], name: str) -> None:
    """`mark` and the `name` it stands for, which starts at `at`, both in user units."""
    mark.set_transform(IdentityTransform())
    drawn.add_artist(mark)
    drawn.text(at[0] / drawn.bbox.width, at[1] / drawn.bbox.height, name, va="center_baseline")


def to_svg(drawn: Figure, name: str, label: str) -> str:
    """`drawn` as an `<svg>` element for a page.

    Args:
        drawn: a figure made under `drawing(name)`.
        name: prefix of every id; unique on the page.
        label: what the picture shows, for who cannot see it.
    """
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ET.fromstring(buffer.getvalue())
    for child in list(root):
        if child.tag == f"{{{_SVG}}}metadata":
            root.remove(child)
    for element in root.iter():
        element.tag = element.tag.replace(f"{{{_SVG}}}", "")
        if element.tag == "style":
            element.text = ""  # matplotlib's global rule for line joins: the page's CSS has it
        _rewrite(element, name)
    root.attrib = {
        "xmlns": _SVG,
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-label": fmt.clean(label),
    }
    return ET.tostring(root, encoding="unicode")


def _rewrite(element: ET.Element, name: str) -> None:
    """Give ids the prefix, colours their variables and text the page's font."""
    if _XLINK_HREF in element.attrib:
        element.attrib["href"] = element.attrib.pop(_XLINK_HREF)
    for key, value in element.attrib.items():
        if key == "id":
            value = f"{name}-{value}"
        elif key == "href":
            value = value.replace("#", f"#{name}-", 1)
        elif key == "clip-path":
            value = value.replace("url(#", f"url(#{name}-")
        elif key == "style":
            value = _FONT.sub(_font, value)
            value = _COLOUR.sub(lambda found: f"var({_VARIABLES[found[0]]})", value)
        element.attrib[key] = value


def _font(found: re.Match[str]) -> str:
    weight = f"font-weight: {found[1]}; " if found[1] else ""
    return f"{weight}font-size: {found[2]}px"
