"""How much faster a fused kernel was, from the committed results of the benches.

The table in `gains.json` ships with the package; its rows come from `benchmarks/results`. For sizes that were
not measured the nearest case counts, and where none is near, the smallest gain of them all.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

_NEAR = math.log(32)
"""Sum of the ratios of sizes, in logarithms, up to which a case says something about a site."""


@dataclass(frozen=True)
class Gain:
    """One measured ratio: PyTorch's time over fastmodel's, forward and backward together (or a step's)."""

    ratio: float
    case: str
    arm: str
    is_near: bool
    machine: str
    source: str

    @property
    def words(self) -> str:
        """The figure and where it is from."""
        like = f"case {self.case}" if self.is_near else f"the least of any case, {self.case}"
        return f"{self.ratio:.2f} measured for {like} against {self.arm}"


def gain(op: str, sizes: Sequence[Sequence[int]], arm: str, over: str | None = None) -> Gain | None:
    """The gain of `op` at these sizes over PyTorch's `arm`; None where the arm was never measured.

    Args:
        op: a name of the kernel table.
        sizes: shape of the input and of the weight, or (tensors, elements) of an optimizer.
        arm: PyTorch's way of doing it: "torch", "torch channels_last", "torch fused", ...
        over: another of PyTorch's arms to take in place of fastmodel's kernel.
    """
    table = _table()
    rows = [
        row
        for row in table["rows"]
        if row["op"] == op and arm in row["torch_ms"] and (over is None or over in row["torch_ms"])
    ]
    if not rows:
        return None

    def ratio(row: dict[str, Any]) -> float:
        return row["torch_ms"][arm] / (row["ours_ms"] if over is None else row["torch_ms"][over])

    wanted = _features(op, sizes)
    nearest = min(rows, key=lambda row: _distance(wanted, _features(op, row["sizes"])))
    is_near = _distance(wanted, _features(op, nearest["sizes"])) <= _NEAR
    chosen = nearest if is_near else min(rows, key=ratio)
    return Gain(
        ratio=ratio(chosen),
        case=chosen["case"],
        arm=arm,
        is_near=is_near,
        machine=f"{table['cpu_model']}, {table['threads']} threads, {table['cpu_capability']}",
        source=f"{table['results']}/{op}.json",
    )


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("gains.json").read_text(encoding="utf-8")
    return json.loads(text)


def _features(op: str, sizes: Sequence[Sequence[int]]) -> list[float]:
    """Logarithms of what a kernel's gain depends on."""
    found: list[float]
    if op.startswith("conv"):
        (n, _, h, w), (k, c, r, s) = sizes[0], sizes[1]
        found = [n * h * w, c, k, r * s]
    elif op.startswith("linear"):
        outs, ins = sizes[1]
        found = [math.prod(sizes[0]) // max(ins, 1), ins, outs]
    elif op in ("adam", "sgd"):
        tensors, elements = sizes[0]
        found = [tensors, elements / max(tensors, 1)]
    else:
        found = [sizes[0][0], math.prod(sizes[0][1:])]
    return [math.log(max(value, 1)) for value in found]


def _distance(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))
