"""The receipt of `fm.optimize`: every place and lever, what became of it, and the evidence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from fastmodel.errors import InputError
from fastmodel.optimize.evidence import Fingerprint, Measurement, Verification
from fastmodel.optimize.plan_text import text_of

ATTRIBUTE = "_fastmodel_plan"
"""Where a model carries its plan: a plain attribute, copied and pickled along, and no state."""

FORMAT = 1


@dataclass(frozen=True)
class Place:
    """One Conv2d, Linear or pool of the model, and what became of it."""

    site: str
    """Qualified name of the module; "conv (call 2)" where one module is called more than once."""
    pattern: str
    """What stands there: "Conv2d + ReLU + MaxPool2d"."""
    replacement: str | None
    """Class of the fused module; None where the place was left."""
    shape: tuple[int, ...] | None
    """Shape of the input in the run on the example inputs; None where it was not reached."""
    reason: str
    """The verdict, in words."""
    capture: str = "none"
    """How the place was read: "sequential", "fx", "dynamo" or "none"."""
    measurement: Measurement | None = None
    """Forward and backward at the captured inputs; None where a rule decided or nothing was timed."""
    verification: Verification | None = None
    """Against float64 at the captured inputs; None where it was not done."""


@dataclass(frozen=True)
class Pulled:
    """One lever beyond the places, and what became of it."""

    name: str
    is_pulled: bool
    reason: str
    measurement: Measurement | None = None
    """Of the lever alone, where it can be timed alone."""
    verification: Verification | None = None


@dataclass(frozen=True)
class Contribution:
    """What one lever adds to the whole: the step without it against the step with all of them."""

    name: str
    """A lever, or "site" and its name."""
    measurement: Measurement


@dataclass(frozen=True)
class Plan:
    """What `fm.optimize` did to a model; `print` it to read it."""

    swaps: tuple[Place, ...]
    left: tuple[Place, ...]
    selection: str
    """The strategy that decided: "measured", "static" (by rule) or a function's name."""
    levers: tuple[Pulled, ...] = ()
    whole: Measurement | None = None
    """The whole step, the model as it was against the model that was returned."""
    verdict: str = ""
    """What the whole came to, in words; empty where it was not measured."""
    contributions: tuple[Contribution, ...] = ()
    """By leave-one-out, where they were asked for."""
    fingerprint: Fingerprint | None = None
    format: int = field(default=FORMAT)

    @property
    def capture(self) -> str:
        """How the swapped places were read: "sequential + fx" for instance, or "none"."""
        kinds = ("sequential", "fx", "dynamo")
        return " + ".join(k for k in kinds if any(p.capture == k for p in self.swaps)) or "none"

    @property
    def pulled(self) -> tuple[str, ...]:
        """The levers beyond the places that are in use."""
        return tuple(lever.name for lever in self.levers if lever.is_pulled)

    @property
    def reason(self) -> str:
        """Why nothing was changed; empty where something was."""
        if self.swaps or self.pulled:
            return ""
        if self.whole is not None:
            return self.verdict
        if not self.left:
            return "the model calls no Conv2d and no Linear"
        return "no place fits: " + "; ".join(dict.fromkeys(place.reason for place in self.left))

    def __str__(self) -> str:
        return text_of(self)

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON; `load` reads it, `fm.optimize(..., plan=path)` applies it."""
        Path(path).write_text(self.to_json() + "\n")

    def to_json(self) -> str:
        """The plan as JSON, as `save` writes it."""
        return _adapter().dump_json(self, indent=2).decode()

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that `save` wrote.

        Raises:
            InputError: there is no such file, or it is no plan of this version.
        """
        import pydantic

        try:
            found = _adapter().validate_json(Path(path).read_bytes())
        except OSError as error:
            raise InputError(f"Plan.load: {path} cannot be read ({error.strerror})") from error
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(
                f"Plan.load: {path} is no plan of fastmodel ({where}: {first['msg']})"
            ) from error
        if found.format != FORMAT:
            raise InputError(
                f"Plan.load: {path} has format {found.format}, this version reads {FORMAT}; "
                "run fm.optimize again"
            )
        return found


def _adapter() -> Any:
    # Here, and not above: only who saves or loads a plan needs it.
    import pydantic

    return pydantic.TypeAdapter(Plan)


def plan_of(model: nn.Module) -> Plan:
    """The plan that `fm.optimize` left on a model, also where it was wrapped or compiled since.

    Raises:
        InputError: no part of the model comes from `fm.optimize`.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"plan_of: expected an nn.Module, got {type(model).__name__}")
    for module in model.modules():
        found = vars(module).get(ATTRIBUTE)
        if found is not None:
            return found
    raise InputError(
        f"plan_of: this {type(model).__name__} carries no plan; pass a model that fm.optimize returned"
    )
