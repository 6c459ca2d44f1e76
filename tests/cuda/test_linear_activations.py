"""The linear layers with an activation by the CUDA kernels: what stands between PyTorch's products."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import gpu_ops, op_checks

import fastmodel as fm
from fastmodel.ops import linear_cuda

ACTIVATIONS = {
    "linear_relu": torch.relu,
    "linear_gelu": F.gelu,
    "linear_silu": F.silu,
    "linear_sigmoid": torch.sigmoid,
    "linear_tanh": torch.tanh,
}
every_op = pytest.mark.parametrize("name", ACTIVATIONS)


@pytest.fixture(params=[True, False], ids=["epilogue", "pass"])
def epilogue(request, monkeypatch):
    """With and without the library's own ReLU."""
    monkeypatch.setattr(linear_cuda, "epilogue_keeps_nan", lambda *_: request.param)


@every_op
@pytest.mark.parametrize("case", gpu_ops.case_names("linear_relu"))
def test_forward_and_gradients(name, case, device):
    op = gpu_ops.op_under_test(name, device)
    op_checks.check_against_float64(op, gpu_ops.case_of(op, case), "cuda", torch.float32)


@pytest.mark.parametrize("case", gpu_ops.case_names("linear_relu"))
def test_a_relu_in_either_way(case, device, epilogue):
    op = gpu_ops.op_under_test("linear_relu", device)
    op_checks.check_against_float64(op, gpu_ops.case_of(op, case), "cuda", torch.float32)


@every_op
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rows", [1, 7, 9, 127, 129])
@pytest.mark.parametrize("outs", [1, 7, 8, 31, 256, 264])
def test_half_precision_around_every_block(name, outs, rows, dtype, device):
    """The passes alone, from the very values that they read: rounded once, as float64 rounded."""
    x = torch.randn(rows, 1, device=device).to(dtype)
    weight = torch.ones(outs, 1, device=device, dtype=dtype)
    plain = ACTIVATIONS[name]
    with fm.use_backend("cuda"):
        found = getattr(torch.ops.fastmodel, name)(x, weight, None, *_keeps_pre(name))
    out, saved = found if isinstance(found, tuple) else (found, found)
    pre = x.expand(rows, outs)
    wide = pre.double().detach().requires_grad_()
    op_checks.assert_close(out, plain(wide).detach(), dtype, 1, "out")

    grad = op_checks.gradient_like(out, "half")
    with fm.use_backend("cuda"):
        backward = getattr(torch.ops.fastmodel, f"{name}_backward")
        grad_x, _, grad_bias = backward(grad, x, weight, saved, [True, True, True])
    slope = _slope(name, saved.double())
    chained = grad.double() * slope
    # Each term of the sum over outs was rounded to dtype before.
    allowed = torch.finfo(dtype).eps * chained.abs().sum(1) + 1e-5
    assert ((grad_x.double()[:, 0] - chained.sum(1)).abs() <= 2 * allowed).all()
    op_checks.assert_close(grad_bias, chained.sum(0), dtype, rows, "gradient of bias")


def _keeps_pre(name):
    return (True,) if name in ("linear_gelu", "linear_silu") else ()


def _slope(name, saved):
    """The derivative by what backward reads."""
    if name in ("linear_gelu", "linear_silu"):
        leaf = saved.clone().requires_grad_()
        return torch.autograd.grad(ACTIVATIONS[name](leaf).sum(), leaf)[0]
    return {
        "linear_relu": lambda out: (out > 0).double(),
        "linear_sigmoid": lambda out: out * (1 - out),
        "linear_tanh": lambda out: 1 - out * out,
    }[name](saved)


@every_op
def test_more_rows_than_blocks(name, device, monkeypatch):
    """A block goes on further down, and partial sums are more than a block's warps."""
    rows, outs = 128 * 1024 + 130, 3
    x, weight = torch.randn(rows, 2, device=device), torch.randn(outs, 2, device=device)
    saved = torch.randn(rows, outs, device=device)
    grad = torch.randn(rows, outs, device=device)
    with fm.use_backend("cuda"):
        backward = getattr(torch.ops.fastmodel, f"{name}_backward")
        found = backward(grad, x, weight, saved, [False, False, True])[2]
    expected = (grad.double() * _slope(name, saved.double())).sum(0)
    op_checks.assert_close(found, expected, torch.float32, rows, "gradient of bias")


@every_op
def test_any_strides(name, device):
    op = gpu_ops.op_under_test(name, device)
    args = (torch.randn(12, 10)[::2, 1:8], torch.randn(7, 7).t(), torch.randn(14)[::2])
    op_checks.check_any_strides(op, gpu_ops.moved(args, device), "cuda", depth=12)


@every_op
def test_special_values(name, device, epilogue):
    x = torch.tensor([[math.nan, 1.0], [30.0, 1.0], [-30.0, 1.0], [0.0, 0.0], [1e38, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    for bias in (None, torch.zeros(3)):
        args = (x, weight) if bias is None else (x, weight, bias)
        op = gpu_ops.op_under_test(name, device)
        padded = (*args, None)[:3]
        op_checks.check_special_values(op, gpu_ops.moved(padded, device), "cuda")


def test_infinite_gradients_of_dead_values(device):
    """PyTorch's ReLU drops them; a factor of 0 would leave NaN."""
    x = torch.tensor([[-1.0], [1.0]], device=device, requires_grad=True)
    weight = torch.ones(1, 1, device=device)
    with fm.use_backend("cuda"):
        out = fm.functional.linear_relu(x, weight)
        (grad,) = torch.autograd.grad(out, x, torch.full_like(out, math.inf))
    assert grad.flatten().tolist() == [0.0, math.inf]


def test_an_epilogue_that_loses_nan_is_not_used(device, monkeypatch):
    calls = []

    def forgetful(x, weight, bias):
        calls.append(x.shape)
        return torch.nan_to_num(torch.relu(F.linear(x, weight, bias)))

    monkeypatch.setattr(linear_cuda, "product_and_relu", forgetful)
    linear_cuda.epilogue_keeps_nan.cache_clear()
    x = torch.tensor([[math.nan, 1.0]], device=device)
    with fm.use_backend("cuda"):
        out = fm.functional.linear_relu(x, torch.ones(1, 2, device=device), torch.zeros(1).to(x))
    linear_cuda.epilogue_keeps_nan.cache_clear()
    assert out.isnan().all() and calls == [(32, 32)]
