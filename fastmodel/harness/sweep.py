"""One bench for every value of an option: batch sizes, or threads."""

from __future__ import annotations

from dataclasses import dataclass

from fastmodel.errors import InputError

SWEPT = ("batch_size", "threads")


@dataclass(frozen=True)
class Sweep:
    """An option's name and its values, in the order in which they are run."""

    name: str
    values: tuple[int, ...]

    def folder(self, value: int) -> str:
        """The folder of one of the runs, inside that of the sweep."""
        return f"{self.name}-{value}"


def parse(text: str) -> Sweep:
    """Read "batch_size=32,64,128".

    Raises:
        InputError: another option, no values, one that is no whole number above 0, or one twice.
    """
    name, separator, listed = text.partition("=")
    name = name.strip().replace("-", "_")
    if name not in SWEPT or not separator:
        raise InputError(f"--sweep {text!r}: write {' or '.join(SWEPT)}, then =32,64,128")
    try:
        values = tuple(int(value) for value in listed.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1 or len(set(values)) < len(values):
        raise InputError(f"--sweep {text!r}: the values must be different whole numbers above 0")
    return Sweep(name, values)
