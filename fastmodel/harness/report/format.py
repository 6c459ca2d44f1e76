"""Numbers and names as text, with their units; what is not a number says so."""

from __future__ import annotations

import math
import unicodedata

TIMES = "\u00d7"
TO = "\u2013"
PLUS_MINUS = "\u00b1"
ELLIPSIS = "\u2026"
NOT_AVAILABLE = "n/a"


def clean(text: str) -> str:
    """`text` on one line, without control, direction and unassigned characters.

    XML cannot carry the first, and the others can make a name read as another.
    """
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if not unicodedata.category(c).startswith("C"))


def shorten(text: str, limit: int) -> str:
    """`text` cleaned and cut to `limit` characters, an ellipsis marking the cut."""
    cleaned = clean(text)
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1].rstrip() + ELLIPSIS


def _number(value: float, spec: str) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "minus infinite"
    return format(value, spec)


def significant(value: float, digits: int = 3) -> str:
    """Plain notation with thousands separators and at least `digits` significant digits."""
    if not math.isfinite(value):
        return _number(value, "")
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return format(value, f",.{decimals}f")


def count(value: int) -> str:
    return format(value, ",")


def throughput(value: float) -> str:
    """Samples per second, without the unit."""
    return significant(value, 4)


def ratio_number(value: float) -> str:
    """Three digits after the point near 1, where they decide; two elsewhere, one from 10 on."""
    decimals = 3 if 0.9 <= value <= 1.1 else 2 if value < 10 else 1
    return _number(value, f".{decimals}f")


def ratio(value: float) -> str:
    return ratio_number(value) + TIMES


def ratio_interval(interval: tuple[float, float]) -> str:
    return f"{ratio_number(interval[0])}{TO}{ratio_number(interval[1])}"


def percent(value: float, decimals: int = 2) -> str:
    """A fraction of 1 as per cent."""
    return _number(value * 100, f".{decimals}f") + " %"


def target(text: str) -> str:
    """The key of a target accuracy ("0.98") as per cent ("98 %"); what is no number as it is."""
    try:
        return f"{float(text) * 100:g} %"
    except ValueError:
        return clean(text)


def loss(value: float) -> str:
    return _number(value, ".4f")


def error(value: float) -> str:
    return _number(value, ".1e")


def seconds(value: float) -> str:
    """A duration in the unit that suits its size."""
    if not math.isfinite(value):
        return _number(value, "")
    size = abs(value)
    if size and size < 1e-3:
        return significant(value * 1e6) + " us"
    if size and size < 1:
        return significant(value * 1e3) + " ms"
    if size < 600:
        return significant(value) + " s"
    if size < 7200:
        return significant(value / 60) + " min"
    return significant(value / 3600) + " h"


def milliseconds(value_s: float) -> str:
    """Seconds as milliseconds, without the unit."""
    return _number(value_s * 1e3, ".2f")


def size(value_bytes: int) -> str:
    """Bytes in binary units."""
    value = float(value_bytes)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{significant(value)} {unit}"
        value /= 1024
    return f"{significant(value)} GiB"


def energy(value_j: float) -> str:
    return (
        significant(value_j / 1e3) + " kJ" if abs(value_j) >= 1e4 else significant(value_j) + " J"
    )


def usd(value: float) -> str:
    return "$" + significant(value)
