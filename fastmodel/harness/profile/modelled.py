"""What a step's operators compute and move, from their shapes, and which lines wait for a value.

A dispatch mode sees every operator of one step: FLOPs come from PyTorch's formulas (and fastmodel's own,
registered alike), bytes are those of the inputs and outputs, each once. That is a model of the memory's
traffic: a cache may save some of it, and an operator may move more. The pass is slow and never timed.
"""

from __future__ import annotations

import linecache
import os
import sys
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_TORCH = os.path.join(os.path.dirname(torch.__file__), "")
_FASTMODEL = os.path.join(Path(__file__).parents[2], "")
_STDLIB = os.path.join(sysconfig.get_path("stdlib"), "")
_OPTIMIZERS = (
    os.path.join(_TORCH, "optim", ""),
    os.path.join(_FASTMODEL, "ops", "optimizers.py"),
)
_SITE_PACKAGES = os.path.join(sysconfig.get_path("purelib"), "")
_VALUE = "aten::_local_scalar_dense"
_GATHERS = ("aten::index", "aten::index_select", "aten::gather", "aten::embedding", "aten::select")
"""They read as much of their source as they give out."""
_NO_TRAFFIC = ("aten::empty", "aten::new_empty", "aten::_local_scalar_dense")


@dataclass
class Work:
    """Of one operator, over all its calls of the step."""

    calls: int = 0
    flops: int = 0
    has_flops: bool = False
    bytes: int = 0
    dtypes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Line:
    """A line of the user's that waits for a tensor's value."""

    where: str
    code: str
    operator: str


class Look(TorchDispatchMode):
    """Writes down every operator while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.work: dict[str, Work] = {}
        """By name without overload, "aten::addmm"."""
        self.lines: Counter[Line] = Counter()

    def __enter__(self) -> Look:
        # Printing a tensor steps out of every mode: its lines are noted where it begins.
        self._print = torch._tensor_str._str
        torch._tensor_str._str = self._noted_print
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch._tensor_str._str = self._print
        super().__exit__(*error)

    def _noted_print(self, *args: Any, **kwargs: Any) -> str:
        line = _calling_line(sys._getframe(1), _VALUE)
        if line is not None:
            self.lines[line] += 1
        return self._print(*args, **kwargs)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().partition(".")[0]
        if not _is_view(func):
            self._note(name, func, args, kwargs or {}, out)
        if _waits(name, args, kwargs or {}, out):
            line = _calling_line(sys._getframe(1), name)
            if line is not None:
                self.lines[line] += 1
        return out

    def _note(self, name: str, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        work = self.work.setdefault(name, Work())
        work.calls += 1
        tensors = {
            id(leaf): leaf
            for leaf in pytree.tree_leaves((args, kwargs, out))
            if isinstance(leaf, torch.Tensor)
        }
        if not name.startswith(_NO_TRAFFIC):
            # An in-place operator's output is its input: one tensor, read and written.
            written = [t for t in pytree.tree_leaves(out) if isinstance(t, torch.Tensor)]
            read = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            again = {id(t) for t in written} & {id(t) for t in read}
            given = sum(map(_bytes, written))
            most = given if name in _GATHERS else float("inf")
            work.bytes += sum(int(min(_bytes(tensor), most)) for tensor in tensors.values())
            work.bytes += sum(_bytes(tensors[key]) for key in again)
        for tensor in tensors.values():
            if tensor.is_floating_point():
                work.dtypes[str(tensor.dtype).removeprefix("torch.")] += 1
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            work.flops += formula(*args, **kwargs, out_val=out)
            work.has_flops = True


def why_no_look() -> str | None:
    """Why a step of this process must not be looked at; None where it may."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is not None and dynamo.counters.get("frames", {}).get("ok"):
        return "torch.compile is in use: a dispatch mode would undo it"
    return None


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_view(func: Any) -> bool:
    aliases = [value.alias_info for value in func._schema.returns]
    return bool(aliases) and all(a is not None and not a.is_write for a in aliases)


def _waits(name: str, args: Any, kwargs: Any, out: Any) -> bool:
    """Does this call hand a tensor's value to Python, or to the CPU?"""
    if name in (_VALUE, "aten::nonzero", "aten::equal"):
        return True
    if name not in ("aten::_to_copy", "aten::copy_"):
        return False
    leaves = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    goes_to_cpu = isinstance(out, torch.Tensor) and out.device.type == "cpu"
    return goes_to_cpu and any(leaf.device.type not in ("cpu", "meta") for leaf in leaves)


def _calling_line(frame: FrameType | None, operator: str) -> Line | None:
    """The innermost line outside Python, PyTorch and fastmodel; None inside an optimizer's step."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(_OPTIMIZERS):
            return None  # it reads its own step counters: that is no line of the user's
        if not _is_library(path):
            code = linecache.getline(path, frame.f_lineno).strip()
            return Line(f"{_short(path)}:{frame.f_lineno}", code, operator)
        frame = frame.f_back
    return None


def _is_library(path: str) -> bool:
    """Python's own code, PyTorch's or fastmodel's; not what else lies in site-packages."""
    if path.startswith((_TORCH, _FASTMODEL, "<")):
        return True
    return path.startswith(_STDLIB) and not path.startswith(_SITE_PACKAGES)


def _short(path: str) -> str:
    """Below the working directory as it would be typed there."""
    try:
        return str(Path(path).resolve().relative_to(Path.cwd()))
    except ValueError:
        return path
