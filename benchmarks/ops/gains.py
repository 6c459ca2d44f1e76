"""What the profiler's advice knows of the kernels: a small table from the committed results, in the package.

`fastmodel/harness/profile/gains.json` holds, for each bench case in float32, the shapes and the medians of
every arm. `make docs` writes it; a test keeps it the same as what this writes.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import results
import torch
from arms import AUTO
from torch._subclasses.fake_tensor import FakeTensorMode

from fastmodel.ops.parameter_lists import BENCHES

ROOT = Path(__file__).resolve().parents[2]
GAINS = ROOT / "fastmodel" / "harness" / "profile" / "gains.json"
_PASSES = ("forward+backward", "step")
_OPTIMIZERS = ("adam", "sgd")
_DIGITS = 5


def gains_text(directory: Path) -> str:
    """The table, from the result files in `directory`."""
    rows = [row for path in _files(directory) for row in _rows(results.load(path))]
    first = results.load(_files(directory)[0]).environment
    document = {
        "results": directory.relative_to(ROOT).as_posix(),
        "cpu_model": first.cpu_model,
        "cpu_capability": first.cpu_capability,
        "threads": first.threads,
        "dtype": "float32",
        "rows": rows,
    }
    # A row a line.
    head = json.dumps(document | {"rows": []}, indent=1).removesuffix("[]\n}")
    return head + "[\n" + ",\n".join("  " + json.dumps(row) for row in rows) + "\n ]\n}\n"


def _files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.glob("*.json")) if not path.name.startswith("step-")]


def _rows(found: results.Results) -> Iterator[dict]:
    for row in found.rows:
        if row.pass_ not in _PASSES or (row.op in _OPTIMIZERS and row.case not in BENCHES):
            continue  # of an optimizer's lists of parameters, those with its plain options
        yield {
            "op": row.op,
            "case": row.case,
            "sizes": _sizes(row.op, row.case),
            "ours_ms": _short(row.median_ms[AUTO]),
            "torch_ms": {name: _short(row.median_ms[name]) for name in row.torch_arms},
        }


def _sizes(op: str, name: str) -> list[list[int]]:
    """Shapes of the input and the weight; of an optimizer, how many tensors and elements."""
    if op in _OPTIMIZERS:
        return [[len(BENCHES[name]), sum(map(math.prod, BENCHES[name]))]]
    cases = importlib.import_module(f"fastmodel.ops.{op}.cases").CASES
    case = next(case for case in cases if case.name == name)
    with FakeTensorMode():
        arguments = case.make(torch.float32)
    tensors = [value for value in arguments if isinstance(value, torch.Tensor)]
    wanted = tensors[:2] if op.startswith(("conv", "linear")) else tensors[:1]
    return [list(tensor.shape) for tensor in wanted]


def _short(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
