"""What the convolutions' CUDA kernels are held to, emulated or on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

import fastmodel as fm
from fastmodel.ops.case import Case
from support import op_checks
from support.op_checks import OpUnderTest

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def to_device(args: tuple, device: str) -> tuple:
    """The call's tensors there, laid out as they are."""
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in args)


def check(op: OpUnderTest, case: Case, dtype: torch.dtype, device: str) -> None:
    """Output and gradients of a fused kernel, which rounds once, equal float64's."""
    args = op.leaves(to_device(case.make(dtype), device))
    expected = op_checks.run_with_gradients(
        op.plain, op.leaves(case.make(dtype), torch.float64), case.name
    )
    _compare(op, case, args, expected, dtype)


def check_forward(op: OpUnderTest, case: Case, dtype: torch.dtype, device: str) -> None:
    """The output alone, of a kernel that has no backward of its own."""
    with torch.no_grad(), fm.use_backend("cuda"):
        found = op.face(*to_device(case.make(dtype), device))
    expected = op.plain(
        *(a.double() if isinstance(a, torch.Tensor) else a for a in case.make(dtype))
    )
    assert found.dtype == dtype
    assert found.stride() == op.plain(*case.make(dtype)).stride()
    op_checks.assert_close(found.cpu(), expected, dtype, case.depth, f"{case} output")


def check_rounding_first(
    op: OpUnderTest, behind: Callable, case: Case, dtype: torch.dtype, device: str
) -> None:
    """As `check`, of a kernel behind a library's product, which is rounded to 16 bits before the bias.

    Args:
        behind: from the product with bias, in float64, to the op's output.
    """

    def rounded(x, weight, bias, stride, padding, dilation, groups, *rest):
        dense = F.conv2d(x, weight, None, stride, padding, dilation, groups).double()
        with_bias = dense if bias is None else dense + bias.double()[:, None, None]
        return behind(with_bias, *rest).to(x.dtype)

    args = op.leaves(to_device(case.make(dtype), device))
    twins = op.leaves(to_device(case.make(dtype), device))
    expected = op_checks.run_with_gradients(rounded, twins, case.name)
    _compare(op, case, args, expected, dtype)


def _compare(op: OpUnderTest, case: Case, args: tuple, expected, dtype: torch.dtype) -> None:
    with fm.use_backend("cuda"):
        found = op_checks.run_with_gradients(op.face, args, case.name)
    assert len(found) == len(expected)
    for index, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype
        assert a.shape == b.shape
        what = f"{case} {'gradient' if index else 'output'} {index}"
        op_checks.assert_close(a.cpu(), b.cpu(), dtype, case.depth, what)
