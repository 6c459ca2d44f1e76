"""The ops and their cases as the kernels for GPUs are held to them, emulated or on the device.

What an op is, and what it stands for, is the benches' own list; cases are the op's.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import torch
from function_arms import FUNCTIONS

from fastmodel.ops import table
from fastmodel.ops.case import Case
from support.op_checks import OpUnderTest


def op_under_test(name: str, device: str) -> OpUnderTest:
    """The op with its cases on a device."""
    function = FUNCTIONS[name]
    cases = importlib.import_module(f"fastmodel.ops.{name}.cases").CASES
    on_device = tuple(case_on(case, device) for case in cases)
    return OpUnderTest(name, function.face, function.plain, on_device, function.constants)


def case_on(case: Case, device: str) -> Case:
    """The case with its tensors on a device; random ones are drawn where they always are."""
    make = case.make
    return dataclasses.replace(case, make=lambda dtype: moved(make(dtype), device))


def moved(args: tuple, device: str) -> tuple[Any, ...]:
    """Arguments with their tensors on a device, strides kept."""
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in args)


def ops_with(backend: str) -> list[str]:
    """The functions that have rows of a backend for all of their passes."""
    return [name for name in sorted(FUNCTIONS) if passes_of(name) == passes_of(name, backend)]


def passes_of(op: str, backend: str | None = None) -> set[str]:
    """The passes of an op, or those for which a backend has a row."""
    rows = (row for row in table.ROWS if row.op == op)
    return {row.pass_ for row in rows if backend is None or row.backend == backend}


def case_names(op: str) -> list[str]:
    """Of the cases that tests run."""
    cases = importlib.import_module(f"fastmodel.ops.{op}.cases").CASES
    return [case.name for case in cases if not case.is_bench]


def case_of(op: OpUnderTest, name: str) -> Case:
    """The case of this name."""
    return next(case for case in op.cases if case.name == name)
