"""NaN, infinity, ties and rounding in Triton's kernels, as tests/ops has them for the others."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import conv_checks, op_checks
from support.op_checks import OpUnderTest

import fastmodel as fm
from fastmodel.ops import triton_chain
from fastmodel.ops.mse_loss import triton_kernel as mse_kernel
from fastmodel.ops.stochastic_rounding import random_bits
from fastmodel.ops.triton_host import sum_rows

INVALID = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
POOL = ((1, 1), (0, 0), (1, 1), 1, (2, 2), (2, 2), (0, 0))


def under_test(name, plain) -> OpUnderTest:
    return OpUnderTest(name, getattr(fm.functional, name), plain, ())


LINEAR = {
    "linear_relu": torch.relu,
    "linear_sigmoid": torch.sigmoid,
    "linear_silu": F.silu,
    "linear_tanh": torch.tanh,
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear(name):
    def plain(x, weight, bias):
        return LINEAR[name](F.linear(x, weight, bias))

    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    op_checks.check_special_values(under_test(name, plain), (INVALID, weight, None), "triton")


def test_bfloat16_is_rounded_once():
    op = under_test("linear_relu", lambda *args: torch.relu(F.linear(*args)))
    outer = (torch.rand(64, 1), torch.rand(33, 1), None)
    inner = (torch.rand(1, 150), torch.rand(1, 150), None)
    op_checks.check_bfloat16_rounding(op, outer, inner, "triton")


def convolution(x, weight, bias, stride, padding, dilation, groups):
    return F.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


def pooled(x, weight, bias, stride, padding, dilation, groups, *pool):
    return F.max_pool2d(convolution(x, weight, bias, stride, padding, dilation, groups), *pool)


CONVOLUTIONS = {
    "conv_relu": (under_test("conv_relu", convolution), ()),
    "conv_relu_maxpool": (under_test("conv_relu_maxpool", pooled), ((2, 2), None, (0, 0))),
}
EACH = pytest.mark.parametrize(("op", "pool"), CONVOLUTIONS.values(), ids=CONVOLUTIONS.keys())


@EACH
def test_layouts(op, pool):
    conv_checks.check_layouts(op, "triton", pool)


@EACH
def test_convolutions_in_bfloat16_are_rounded_once(op, pool):
    pool = pool and ((1, 1), (1, 1), (0, 0))
    conv_checks.check_bfloat16_rounding(op, "triton", pool)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@EACH
def test_convolutions(op, pool, value):
    """Where the gradient of the weight meets dead pixels, PyTorch's product makes NaN of 0 * inf, as ours."""
    x, weight = torch.randn(1, 2, 8, 8), torch.randn(5, 2, 3, 3)
    x[0, 0, 2, 2] = value
    args = (x, weight, None, (1, 1), (0, 0), (1, 1), 1, *pool)
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(op.face, op_checks.leaves(args), "nan")
    expected = op_checks.run_with_gradients(op.plain, op_checks.leaves(args), "nan")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_first_of_equal_maxima_takes_the_gradient():
    """A 1 x 1 filter of weight 1 makes ties exact: constant windows, and a tie between later pixels."""
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, :2, 2:] = torch.tensor([[0.5, 2.0], [2.0, 2.0]])
    args = (x, torch.ones(20, 1, 1, 1), None, *POOL)
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(
            fm.functional.conv_relu_maxpool, op_checks.leaves(args), "ties"
        )
    for a, b in zip(
        found, op_checks.run_with_gradients(pooled, op_checks.leaves(args), "ties"), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("pool", [((2, 2), (2, 2), (0, 0)), ((3, 3), (2, 2), (1, 1))], ids=str)
def test_argmax_is_that_of_the_definition(pool):
    """Passes of different backends combine: dead windows, padding, NaN."""
    x = torch.randn(2, 3, 9, 10)
    x[0, 0, 3, 3] = math.nan
    args = (x, torch.randn(20, 3, 3, 3), torch.randn(20) - 2, *POOL[:4], *pool)
    op = torch.ops.fastmodel.conv_relu_maxpool
    with fm.use_backend("reference"):
        expected = op(*args)
    with fm.use_backend("triton"):
        found = op(*args)
    assert torch.equal(found[1], expected[1]) and (found[1] == pool[0][0] ** 2).any()
    torch.testing.assert_close(found[0], expected[0], equal_nan=True)
    assert found[0].stride() == expected[0].stride() and found[1].stride() == expected[1].stride()


ROWS = torch.tensor(
    [
        [1.0, 2.0, 3.0, 4.0, 5.0],
        [math.nan, 0.0, 1.0, 2.0, 3.0],
        [math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf, 0.0, 1.0, 2.0, 3.0],
        [-math.inf] * 5,
        [1e4, 1e4 + 1, -1e4, 0.0, 9.9e3],
        [3e38, -3e38, 0.0, 1.0, 2.0],
        [-1e4, -1e4 - 2, -1e4 + 3, -1e4, -1e4],
        [88.0, -104.0, -90.0, 0.0, 87.0],
    ]
)
TARGETS = {
    "first": torch.zeros(9, dtype=torch.int64),
    "last": torch.full((9,), 4),
    "ignored": torch.tensor([-100, -100, -100, -100, -100, 0, -100, 1, 2]),
    "all ignored": torch.full((9,), -100),
    "probability": torch.full((9, 5), 0.2),
    "one-hot": F.one_hot(torch.full((9,), 4), 5).float(),
}


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", TARGETS)
def test_cross_entropy(kind, smoothing, reduction):
    op = OpUnderTest("cross_entropy", fm.functional.cross_entropy, F.cross_entropy, ())
    for rows in (slice(0, 9), slice(5, 9), slice(3, 4)):
        target = TARGETS[kind][rows]
        args = (ROWS[rows], target, None, None, -100, None, reduction, smoothing)
        op_checks.check_special_values(op, args, "triton")


@pytest.mark.parametrize("position", [0, 5000, 8199])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e4])
def test_cross_entropy_in_any_block_of_a_row(value, position):
    op = OpUnderTest("cross_entropy", fm.functional.cross_entropy, F.cross_entropy, ())
    for base in (torch.zeros(2, 8200), torch.full((2, 8200), -math.inf)):
        x = base.clone()
        x[1, position] = value
        x[:, 4100] = 1.0
        args = (x, torch.tensor([4100, 4100]), None, None, -100, None, "none", 0.0)
        op_checks.check_special_values(op, args, "triton")


@pytest.mark.parametrize("wrong", [5, -1, 2**40])
@pytest.mark.parametrize("has_weight", [False, True])
def test_a_class_index_out_of_range_makes_nan_of_its_row(wrong, has_weight):
    x = torch.randn(3, 5, requires_grad=True)
    weight = torch.rand(5) if has_weight else None
    with fm.use_backend("triton"):
        loss = fm.functional.cross_entropy(x, torch.tensor([0, wrong, 4]), weight, reduction="none")
        loss.backward(torch.ones(3))
    assert loss.isnan().tolist() == [False, True, False]
    assert x.grad.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 63, 64, 65, 5000])
def test_one_seed_is_one_mask_everywhere(size, dtype):
    x, weight = torch.ones(size, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype)
    expected = (random_bits(torch.empty(size), 0, 0, 2**63 - 5) >= 0.25 * 2**32).unsqueeze(1)
    with fm.use_backend("triton"):
        seed = torch.tensor(2**63 - 5)
        out = torch.ops.fastmodel.linear_relu_dropout(x, weight, None, seed, 0.25)
    assert torch.equal(out != 0, expected)
    torch.testing.assert_close(out, expected.to(dtype) / 0.75)


@pytest.mark.parametrize("p", [1e-12, 0.5, 1 - 2.0**-40, 1.0])
def test_dropout_and_its_gradient(p):
    x, bias = torch.randn(64, 9), torch.zeros(33, requires_grad=True)
    weight = torch.randn(33, 9, requires_grad=True)
    with fm.use_backend("triton"):
        out = fm.functional.linear_relu_dropout(x, weight, bias, p)
        grad = torch.randn_like(out)
        found = torch.autograd.grad(out, (weight, bias), grad)
    scale = 1 / (1 - p) if p < 1 else 0.0
    alive = F.linear(x, weight) > 0
    if p in (1e-12, 1.0):
        assert torch.equal(out != 0, alive & (p < 0.5))
    torch.testing.assert_close(out[out != 0], (F.linear(x, weight) * scale)[out != 0])
    masked = grad * (out > 0) * scale
    torch.testing.assert_close(found[0], masked.T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], masked.sum(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("channels", [16, 33])
def test_taps_of_many_channels(channels, groups):
    """Steps by taps, one block of channels and two, with patches that reach beyond every side."""
    x = torch.randn(3, channels * groups, 6, 5)
    weight = torch.randn(20 * groups, channels, 3, 2) / (6 * channels) ** 0.5
    args = (x, weight, torch.randn(20 * groups), (1, 2), (2, 1), (2, 1), groups)
    for op, pool in CONVOLUTIONS.values():
        with fm.use_backend("triton"):
            found = op_checks.run_with_gradients(op.face, op.leaves((*args, *pool)), "taps")
        wide = op.leaves((*args, *pool), torch.float64)
        for a, b in zip(found, op_checks.run_with_gradients(op.plain, wide, "taps"), strict=True):
            op_checks.assert_close(a, b, torch.float32, 6 * channels, op.name)


def test_programs_that_take_several_blocks(monkeypatch):
    """As in large calls, where there are more blocks than programs."""
    monkeypatch.setattr(triton_chain, "_MOST_PROGRAMS", 2)
    monkeypatch.setattr(mse_kernel, "MOST_PARTIALS", 2)
    x, weight, bias = torch.randn(150, 5), torch.randn(70, 5), torch.randn(70)
    image, filters = torch.randn(2, 3, 14, 12), torch.randn(66, 3, 3, 3)
    calls = [
        ("linear_relu", (x, weight, bias), lambda *a: torch.relu(F.linear(*a))),
        ("conv_relu_maxpool", (image, filters, bias[:66], *POOL), pooled),
        ("mse_loss", (torch.randn(5000), torch.randn(5000)), F.mse_loss),
    ]
    for name, args, plain in calls:
        op = under_test(name, plain)
        with fm.use_backend("triton"):
            found = op_checks.run_with_gradients(op.face, op.leaves(args), name)
        wide = op.leaves(args, torch.float64)
        for a, b in zip(found, op_checks.run_with_gradients(plain, wide, name), strict=True):
            op_checks.assert_close(a, b, torch.float32, 5000, name)


def test_sums_of_more_partial_sums_than_a_block():
    partials, out = torch.randn(3, 2500), torch.empty(3)
    sum_rows(partials, out, 0.5)
    op_checks.assert_close(out, 0.5 * partials.double().sum(1), torch.float32, 2500, "sums")
