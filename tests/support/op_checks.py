"""What every op is held to: forward and gradient against float64, opcheck, gradcheck.

An `OpUnderTest` names the op's functional face, its reference and its cases; the functions below are the
checks, called from tests/ops/test_<op>.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch

import fastmodel as fm
from fastmodel.ops import table
from fastmodel.ops.case import Case, tolerance

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class OpUnderTest:
    """One op as the tests see it."""

    name: str
    face: Callable
    """The public function; takes a case's arguments."""
    plain: Callable
    """The same from torch.nn.functional's own functions: an oracle that shares no code with the op."""
    cases: tuple[Case, ...]

    @property
    def test_cases(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if not case.is_bench)


def backends(op: str) -> list[str]:
    """The backends with an available row for every pass of the op."""
    by_pass: dict[str, set[str]] = {}
    for row in table.ROWS:
        if row.op == op and row.available:
            by_pass.setdefault(row.pass_, set()).add(row.backend)
    return sorted(set.intersection(*by_pass.values()))


def serves(op: str, backend: str, dtype: torch.dtype) -> bool:
    """Does the table list a kernel of this backend and dtype for every pass?"""
    passes = {row.pass_ for row in table.ROWS if row.op == op}
    return all(
        any(
            row.backend == backend and row.takes("cpu", dtype) is None
            for row in table.rows_of(op, p)
        )
        for p in passes
    )


def tensors(args: tuple) -> list[torch.Tensor]:
    """The floating tensors among a call's arguments."""
    return [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]


def leaves(args: tuple, dtype: torch.dtype | None = None) -> tuple:
    """The arguments with each floating tensor a fresh leaf that wants a gradient, strides kept."""

    def leaf(value):
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        return value.detach().to(dtype or value.dtype).requires_grad_(True)

    return tuple(leaf(value) for value in args)


def gradient_like(out: torch.Tensor, name: str) -> torch.Tensor:
    """A fixed random incoming gradient, exact in every dtype so that all runs get the same."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randint(-16, 17, out.shape, generator=generator).to(out.dtype) / 8


def run_with_gradients(call: Callable, args: tuple, name: str) -> list[torch.Tensor]:
    """[out, gradient of every floating tensor argument]."""
    out = call(*args)
    return [out, *torch.autograd.grad(out, tensors(args), gradient_like(out, name))]


def assert_close(found, expected, dtype: torch.dtype, depth: int, what: str) -> None:
    """found (any dtype) equals expected (float64) to the bound of fastmodel.ops.case.tolerance.

    atol holds for unit scale, so it is scaled by the expected values' root mean square where that is above 1.
    """
    expected = expected.to(torch.float64)
    bound = tolerance(dtype, depth)
    if expected.numel():
        bound["atol"] *= max(1.0, expected.square().mean().sqrt().nan_to_num(1.0).item())
    torch.testing.assert_close(
        found.to(torch.float64), expected, **bound, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )


def check_against_float64(op: OpUnderTest, case: Case, backend: str | None, dtype) -> None:
    """Forward and every gradient of the op equal the plain composition in float64.

    ReLU's mask and the pool's maximum are taken from the same rounded inputs, so a low-precision forward
    agrees with float64 on which values live except at exact rounding ties, which random inputs avoid: the
    forward here accumulates in float32 and rounds once.
    """
    args = leaves(case.make(dtype))
    with fm.use_backend(backend):
        found = run_with_gradients(op.face, args, case.name)
    expected = run_with_gradients(op.plain, leaves(args, torch.float64), case.name)
    names = ["output", *[f"gradient {i}" for i in range(len(found) - 1)]]
    for name, a, b in zip(names, found, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        assert_close(a, b, dtype, case.depth, f"{case} {name}")
