"""cross_entropy and mse_loss by the CUDA kernels."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import gpu_ops, op_checks

import fastmodel as fm
from fastmodel.errors import TargetIndexError
from fastmodel.ops.cross_entropy import cuda_kernel

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOSSES = ("cross_entropy", "mse_loss")
CASES = [(op, name) for op in LOSSES for name in gpu_ops.case_names(op)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "case"), CASES)
def test_forward_and_gradients(name, case, dtype, device):
    op = gpu_ops.op_under_test(name, device)
    op_checks.check_against_float64(op, gpu_ops.case_of(op, case), "cuda", dtype)


@pytest.mark.parametrize("name", ["weight", "ignored-none", "image", "image-probability", "vector"])
def test_any_strides_of_logits(name, device):
    op = gpu_ops.op_under_test("cross_entropy", device)
    case = gpu_ops.case_of(op, name)
    op_checks.check_any_strides(op, case.make(torch.float32), "cuda", case.depth)


@pytest.mark.parametrize("classes", [1023, 1024, 1025, 1031])
@pytest.mark.parametrize("offset", [0, 1, 3, 5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_begin_anywhere(dtype, offset, classes, device):
    """Around the size from which a block takes a row; the logits aligned otherwise than their gradient."""
    buffer = torch.randn(offset + 3 * classes, device=device).to(dtype)
    x = buffer[offset:].view(3, classes).detach().requires_grad_()
    target = torch.tensor([0, classes - 1, classes // 2], device=device)
    with fm.use_backend("cuda"):
        loss = fm.functional.cross_entropy(x, target, label_smoothing=0.1)
        (grad,) = torch.autograd.grad(loss, x)
    wide = x.detach().double().requires_grad_()
    expected = F.cross_entropy(wide, target, label_smoothing=0.1)
    op_checks.assert_close(loss, expected, dtype, classes, "loss")
    (expected_grad,) = torch.autograd.grad(expected, wide)
    op_checks.assert_close(grad, expected_grad, dtype, classes, "gradient")


ROWS = torch.tensor(
    [
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [math.nan, 0.0, 1.0, 2.0, 3.0],
        [math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf] * 5,
        [1e4, 1e4 + 1, -1e4, 0.0, 9.9e3],
        [3e38, -3e38, 0.0, 1.0, 2.0],
    ]
)


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["first", "ignored", "probability"])
def test_special_values_of_logits(kind, smoothing, reduction, device):
    target = {
        "first": torch.zeros(7, dtype=torch.int64),
        "ignored": torch.tensor([-100, -100, -100, -100, -100, 0, -100]),
        "probability": torch.full((7, 5), 0.2),
    }[kind]
    op = gpu_ops.op_under_test("cross_entropy", device)
    for rows in (slice(0, 7), slice(5, 7), slice(3, 4)):
        args = (ROWS[rows], target[rows], None, None, -100, None, reduction, smoothing)
        op_checks.check_special_values(op, gpu_ops.moved(args, device), "cuda")


@pytest.mark.parametrize("factor", [1.0, -2.0, 0.5, math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, 7, 9, 4099])
def test_a_gradient_times_what_comes_in(size, dtype, factor, device):
    gradient = torch.randn(size, device=device).to(dtype)
    expected = gradient * torch.tensor(factor, dtype=dtype, device=device)
    cuda_kernel.scale_(gradient, torch.tensor(factor, dtype=dtype, device=device))
    assert torch.equal(gradient, expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a failed check ends all work on the device")
@pytest.mark.parametrize("wrong", [5, -1])
def test_a_class_out_of_range(wrong, device):
    x, target = torch.randn(3, 5), torch.tensor([0, wrong, 1])
    with fm.use_backend("cuda"), pytest.raises(TargetIndexError, match="out of bounds"):
        fm.functional.cross_entropy(x, target)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a failed check ends all work on the device")
def test_a_class_out_of_range_fails_the_device(monkeypatch):
    monkeypatch.setattr(cuda_kernel, "check_range", lambda *_: None)
    x, target = torch.randn(3, 5), torch.tensor([0, 5, 1])
    with fm.use_backend("cuda"), pytest.raises(RuntimeError, match="none of the classes"):
        fm.functional.cross_entropy(x, target)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_any_strides_of_what_is_compared(reduction, device):
    op = gpu_ops.op_under_test("mse_loss", device)
    x, target = torch.randn(2, 3, 4, 5, device=device), torch.randn(2, 3, 4, 5, device=device)
    for a, b in ((x, target), (x, op_checks.strided(target)), (x[:1].expand(x.shape), target)):
        op_checks.check_any_strides(op, (a, b, None, None, reduction), "cuda", 120)


@pytest.mark.parametrize("size", [255, 256, 257, 2047, 2049, 70_001])
@pytest.mark.parametrize("offset", [0, 1])
def test_sums_of_every_length(offset, size, device):
    """Around a block and the grid; and past the packs that a thread adds up in float32."""
    x = torch.randn(size + offset, device=device)[offset:]
    target = torch.randn(size, device=device)
    with fm.use_backend("cuda"):
        loss = fm.functional.mse_loss(x, target)
    expected = (x.double() - target.double()).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, 3e38])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_special_values_of_what_is_compared(reduction, value, device):
    op = gpu_ops.op_under_test("mse_loss", device)
    x = torch.zeros(37, device=device)
    x[19] = value
    args = (x, torch.ones(37, device=device), None, None, reduction)
    op_checks.check_special_values(op, args, "cuda")
