"""Every op on the device: each backend that has rows for all of its passes, and the choice made by itself.

Cases are the op's own. Answers are held to float64 in the norm (`measure.bound`), and each element to sixteen
times that.
"""

import function_races
import measure
import pytest
import torch
from support import gpu, gpu_ops, op_checks

import fastmodel as fm

gpu.require()

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
OPS = sorted(function_races.FUNCTIONS)
BACKENDS = [
    (op, backend)
    for op in OPS
    for backend in (None, "cuda", "triton", "library", "reference")
    if backend is None or gpu_ops.passes_of(op) == gpu_ops.passes_of(op, backend)
]
CASES = [(*each, case) for each in BACKENDS for case in gpu_ops.case_names(each[0])]


def refused(op, backend, dtype):
    """Why a backend asked for by name serves no such call here; None where it does."""
    if backend is None:
        return None
    rows = [row for row in fm.kernels() if row.op == op and row.backend == backend]
    for row in rows:
        reason = row.reason or row.takes(gpu.DEVICE, dtype, by_name=True)
        if reason is not None:
            return reason
    return None


def problem_of(op, found, args):
    """What is wrong with an answer, in the norm or in an element; None where nothing is.

    Where terms cancel, PyTorch's own form loses digits too: four times its error is allowed there.
    """
    expected = function_races.expected(op, args)
    plain = function_races.expected(op, args, found[0].dtype)
    if len(found) != len(expected):
        return f"{len(found)} results, expected {len(expected)}"
    for index, (a, b, torchs) in enumerate(zip(found, expected, plain, strict=True)):
        if a.shape != b.shape:
            return f"result {index} has shape {tuple(a.shape)}, expected {tuple(b.shape)}"
        error, allowed = measure.relative_error(a, b), measure.bound(a.dtype)
        if not error <= max(allowed, 4 * measure.relative_error(torchs, b)):
            return f"result {index} is off by {error:.2g}"
        if b.numel():
            size = b.nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt()
            limit = 16 * allowed * (b.abs() + size) + 4 * (torchs.double() - b).abs()
            if ((a.double() - b).abs() > limit).any():
                return f"an element of result {index} is off"
    return None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("op", "backend", "case"), CASES)
def test_forward_and_gradients(op, backend, case, dtype):
    reason = refused(op, backend, dtype)
    if reason is not None:
        pytest.skip(f"{backend} {reason}")
    subject = gpu_ops.op_under_test(op, gpu.DEVICE)
    args = gpu_ops.case_of(subject, case).make(dtype)
    try:
        with fm.use_backend(backend):
            found = function_races.answer(op, args)
    except fm.errors.BackendError as error:
        pytest.skip(str(error))
    assert problem_of(op, found, args) is None


@pytest.mark.parametrize(("op", "backend"), BACKENDS)
def test_any_strides(op, backend):
    """Arguments with gaps, NaN in them, dimensions reversed; an input is left as it is."""
    reason = refused(op, backend, torch.float32)
    if reason is not None:
        pytest.skip(f"{backend} {reason}")
    subject = gpu_ops.op_under_test(op, gpu.DEVICE)
    cases = [case for case in subject.test_cases if 0 < case.flops < 1e8]
    args = max(cases, key=lambda case: case.flops).make(torch.float32)
    laid_out = tuple(_strided(value) for value in args)
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in laid_out]
    try:
        with fm.use_backend(backend):
            found = function_races.answer(op, laid_out)
    except fm.errors.BackendError as error:
        pytest.skip(str(error))
    for a, b in zip(laid_out, before, strict=True):
        assert a is b or torch.equal(a, b)
    assert problem_of(op, found, args) is None


def _strided(value):
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim():
        return op_checks.strided(value)
    return value


@pytest.mark.parametrize("op", OPS)
def test_two_runs_give_the_same_bits(op):
    subject = gpu_ops.op_under_test(op, gpu.DEVICE)
    args = subject.test_cases[3].make(torch.float32)
    torch.manual_seed(0)
    first = function_races.answer(op, args)
    torch.manual_seed(0)
    second = function_races.answer(op, args)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
