"""Every op with Triton rows, over its own cases: forward, gradients, strides, special values.

The oracle is the reference row in float64, which tests/ops hold to PyTorch's functions.
"""

import importlib

import pytest
import torch
from support import op_checks
from support.op_checks import OpUnderTest

import fastmodel as fm
from fastmodel.ops import table

OPTIMIZERS = {"adam", "sgd"}
CONSTANTS = {
    "cross_entropy": (2,),
    "linear_cross_entropy": (4,),
    "rope": (2, 3),
    "rope_interleaved": (2, 3),
}
"""Positions of arguments that get no gradient here."""
ROUNDED = {"linear_cross_entropy", "linear_gelu", "linear_sigmoid", "linear_silu", "linear_tanh"}
"""Ops whose backward reads or hands on 16-bit values between its steps, as PyTorch's own does."""
ROUNDED_BY_PYTORCH = {"conv_relu", "conv_relu_maxpool"}
"""Ops that leave sums to PyTorch, which adds some of them up in float16 on the CPU."""
LOW_PRECISION = {torch.bfloat16: 4, torch.float16: 9}
"""Of the cases, one in so many runs in these dtypes too."""


LINEAR = {"rope", "rope_interleaved"}
"""Ops without a second derivative."""


def face_of(name: str):
    """The public function, of a case's arguments, with its results, if there are several, in one."""
    function = getattr(fm.functional, name)

    def call(*args):
        if name == "linear_cross_entropy":
            x, weight, target, bias, class_weight, reduction, smoothing = args
            options = {"reduction": reduction, "label_smoothing": smoothing}
            return function(x, weight, target, linear_bias=bias, weight=class_weight, **options)
        result = function(*args)
        if isinstance(result, tuple):
            return torch.cat([one.flatten() for one in result])
        return result

    return call


def under_test(name: str) -> OpUnderTest:
    face = face_of(name)

    def by_definition(*args):
        with fm.use_backend("reference"):
            return face(*args)

    cases = importlib.import_module(f"fastmodel.ops.{name}.cases").CASES
    return OpUnderTest(name, face, by_definition, cases, CONSTANTS.get(name, ()))


OPS = {
    name: under_test(name)
    for name in sorted({row.op for row in table.ROWS if row.backend == "triton"} - OPTIMIZERS)
}
ONE_OF_EACH = pytest.mark.parametrize("op", OPS.values(), ids=OPS.keys())


def runs():
    for op in OPS.values():
        for i, case in enumerate(op.test_cases):
            for dtype in (torch.float32, *LOW_PRECISION):
                if i % LOW_PRECISION.get(dtype, 1) == 0:
                    yield pytest.param(op, case, dtype, id=f"{op.name}-{case}-{str(dtype)[6:]}")


@pytest.mark.parametrize(("op", "case", "dtype"), list(runs()))
def test_forward_and_gradients(op, case, dtype):
    is_rounded = op.name in ROUNDED or (op.name in ROUNDED_BY_PYTORCH and dtype == torch.float16)
    if is_rounded and dtype in LOW_PRECISION:
        check_with_roundings_between(op, case, dtype)
    else:
        op_checks.check_against_float64(op, case, "triton", dtype)


def check_with_roundings_between(op: OpUnderTest, case, dtype: torch.dtype) -> None:
    """As check_against_float64, with two roundings in each term of a gradient's sums.

    What is kept for backward is off by half an eps, which a slope's derivative (at most 1 in these ops)
    passes on, and their product with grad is rounded again: a term is off by at most eps of grad's size. Over
    a sum of independent terms that adds up as the terms do, to eps of the result's root mean square; 8 of
    those leave no false alarm.
    """
    args = op.leaves(case.make(dtype))
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(op.face, args, case.name)
    expected = op_checks.run_with_gradients(op.plain, op.leaves(args, torch.float64), case.name)
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert a.dtype == dtype and a.shape == b.shape
        size = b.square().mean().sqrt().nan_to_num().item() if b.numel() else 0.0
        eps = torch.finfo(dtype).eps
        bound = {"rtol": 2 * eps, "atol": 8 * eps * size, "equal_nan": True}
        torch.testing.assert_close(a.double(), b, **bound, msg=lambda m, i=i: f"{case} {i}: {m}")


@ONE_OF_EACH
def test_any_strides(op):
    case = op.test_cases[1]
    op_checks.check_any_strides(op, case.make(torch.float32), "triton", case.depth)


@ONE_OF_EACH
def test_the_same_bits_in_every_run(op):
    case = op.test_cases[3]
    op_checks.check_thread_counts(op, case, "triton", threads=1)


@pytest.mark.parametrize(
    "op", [op for op in OPS.values() if op.name not in LINEAR], ids=lambda op: op.name
)
def test_second_derivatives(op):
    op_checks.check_mixed_second_derivative(op, op.test_cases[1].make(torch.float32), "triton")
