"""conv_relu_maxpool against F.max_pool2d(F.relu(F.conv2d(...)))."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import conv_checks, op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.conv_relu_maxpool.cases import CASES


def plain(x, weight, bias, stride, padding, dilation, groups, *pool):
    dense = F.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))
    return F.max_pool2d(dense, *pool)


OP = OpUnderTest("conv_relu_maxpool", fm.functional.conv_relu_maxpool, plain, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
GEOMETRY = ((1, 1), (0, 0), (1, 1), 1, (2, 2), (2, 2), (0, 0))


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    pool, step, _ = case.make(dtype)[7:]
    is_overlapping = step is not None and (pool[0] > step[0] or pool[1] > step[1])
    if is_overlapping and (backend, dtype) == ("library", torch.bfloat16):
        with pytest.raises(fm.errors.BackendError, match="windows overlap"):
            conv_checks.check_case(OP, case, backend, dtype)
        return
    conv_checks.check_case(OP, case, backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_layouts(backend):
    conv_checks.check_layouts(OP, backend, ((2, 2), None, (0, 0)))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_any_strides(backend):
    x = torch.randn(3, 12, 9, 20)[::2, 1:6, :, ::2]
    weight = torch.randn(3, 3, 5, 7).permute(3, 2, 0, 1) / 7
    args = (x, weight, torch.randn(14)[::2], *GEOMETRY)
    op_checks.check_any_strides(OP, args, backend, depth=45)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_nan_and_infinity(backend):
    """Values as PyTorch has them; gradients are not finite where a live pixel makes them so.

    A NaN or an infinity in x behind a dead pixel makes NaN (0 * inf) of PyTorch's dense product, and
    nothing of the sums over live pixels. The gradient of x sees x only through the argmax: it is the same.
    """
    weight = torch.randn(5, 2, 3, 3)
    for value in (math.nan, math.inf, -math.inf):
        x = torch.randn(1, 2, 8, 8)
        x[0, 0, 2, 2] = value
        ours, theirs = (op_checks.leaves((x, weight, None, *GEOMETRY)) for _ in range(2))
        with fm.use_backend(backend):
            out, grad_x, grad_weight = op_checks.run_with_gradients(OP.face, ours, "nan")
        expected, *gradients = op_checks.run_with_gradients(plain, theirs, "nan")
        torch.testing.assert_close(out, expected, equal_nan=True)
        torch.testing.assert_close(grad_x, gradients[0], equal_nan=True)
        finite = gradients[1].isfinite()
        torch.testing.assert_close(grad_weight[finite], gradients[1][finite])
        if math.isnan(value):
            assert not grad_weight.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_first_of_equal_maxima_takes_the_gradient(backend):
    """A 1x1 kernel of weight 1 makes ties exact: constant windows, and a tie between later pixels."""
    x = torch.ones(1, 1, 4, 4)
    x[0, 0, :2, 2:] = torch.tensor([[0.5, 2.0], [2.0, 2.0]])
    args = (x, torch.ones(20, 1, 1, 1), None, *GEOMETRY)
    with fm.use_backend(backend):
        found = op_checks.run_with_gradients(OP.face, op_checks.leaves(args), "ties")
    expected = op_checks.run_with_gradients(plain, op_checks.leaves(args), "ties")
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_dead_windows_pass_no_gradient(backend):
    x = torch.rand(2, 3, 6, 6).requires_grad_()
    weight = -torch.rand(4, 3, 3, 3)
    weight.requires_grad_()
    bias = torch.zeros(4, requires_grad=True)
    with fm.use_backend(backend):
        out = fm.functional.conv_relu_maxpool(x, weight, bias)
        out.sum().backward()
    assert not out.any()
    for leaf in (x, weight, bias):
        assert not leaf.grad.any()


@pytest.mark.parametrize("forward", BACKENDS, ids=str)
@pytest.mark.parametrize("backward", BACKENDS, ids=str)
def test_passes_of_different_backends_combine(forward, backward):
    args = op_checks.leaves(BY_NAME["pool-3-overlapping"].make(torch.float32))
    with fm.use_backend(forward):
        out = OP.face(*args)
    grad = op_checks.gradient_like(out, "combine")
    with fm.use_backend(backward):
        found = torch.autograd.grad(out, op_checks.tensors(args), grad)
    expected = op_checks.run_with_gradients(plain, op_checks.leaves(args, torch.float64), "combine")
    for a, b in zip(found, expected[1:], strict=True):
        op_checks.assert_close(a, b, torch.float32, 256, "combined")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", ["padded", "first-layer"])
def test_thread_counts(case, backend, threads):
    """As many threads as images, more, fewer."""
    op_checks.check_thread_counts(OP, BY_NAME[case], backend, threads)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_bfloat16_is_rounded_to_nearest_even(backend):
    conv_checks.check_bfloat16_rounding(OP, backend, ((1, 1), (1, 1), (0, 0)))


def test_only_the_gradients_wanted():
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME["padded"].make(torch.float32))


@pytest.mark.parametrize("case", ["strided", "pool-3-overlapping", "first-layer"])
def test_only_the_weight_gradient_of_first_layers(case):
    args = BY_NAME[case].make(torch.float32)
    x, weight, bias, *rest = args
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    OP.face(x, ours, bias, *rest).sum().backward()
    plain(x, theirs, bias, *rest).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4)


def _tiny(dtype, *pool):
    return (
        torch.randn(2, 2, 5, 6, dtype=dtype),
        torch.randn(3, 2, 2, 3, dtype=dtype),
        torch.randn(3, dtype=dtype),
        (1, 1),
        (1, 0),
        (1, 1),
        1,
        *pool,
    )


POOLS = [((2, 2), (2, 2), (0, 0)), ((3, 2), (2, 1), (1, 0))]


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_derivatives(pool):
    op_checks.check_derivatives(OP, _tiny(torch.float64, *pool))


@pytest.mark.parametrize("pool", POOLS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_second_derivative_of_float32(backend, pool):
    op_checks.check_mixed_second_derivative(OP, _tiny(torch.float32, *pool), backend)


@pytest.mark.parametrize("case", ["small-nchw", "padded", "pool-padded"])
def test_registration(case):
    def backward_args(args, outs):
        out, argmax = outs
        x, weight, _, *geometry = args
        return (torch.randn_like(out), x, weight, argmax, *geometry, [True, True, True])

    args = BY_NAME[case].make(torch.float32)
    op_checks.check_registration(OP, (*args[:8], args[8] or args[7], args[9]), backward_args)


def test_compiles_as_one_graph():
    op_checks.check_compiles(fm.nn.ConvReLUMaxPool2d(4, 6, 3, padding=1), torch.randn(2, 4, 9, 9))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    x = torch.randn(2, 4, 8, 8)
    args = (x, torch.randn(6, 4, 3, 3) / 6, torch.randn(6), *GEOMETRY)
    op_checks.check_autocast(OP, args, dtype, depth=36)


def test_flops_are_counted():
    module = fm.nn.ConvReLUMaxPool2d(4, 6, 3)
    x = torch.randn(2, 4, 8, 8)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 6 * 6 * 6 * 4 * 9) * 2  # x wants no gradient


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's own arm
@pytest.mark.parametrize("arguments", conv_checks.PADDINGS, ids=str)
def test_module(arguments, tmp_path):
    convolution = nn.Conv2d(4, 6, **arguments).eval()
    pool = nn.MaxPool2d((3, 2), stride=2, padding=(1, 0))
    fused = fm.nn.ConvReLUMaxPool2d.from_torch(convolution, pool)
    conv_checks.check_module(fused, convolution, pool, tmp_path)
    assert "pool_kernel_size=(3, 2), pool_stride=(2, 2), pool_padding=(1, 0)" in repr(fused)


def test_module_made_by_itself():
    torch.manual_seed(3)
    fused = fm.nn.ConvReLUMaxPool2d(4, 6, 3, pool_kernel_size=3, pool_stride=1, pool_padding=1)
    torch.manual_seed(3)
    twin = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(fused(x), twin(x))


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
    ],
    ids=str,
)
def test_pools_that_are_not_taken(pool):
    with pytest.raises(fm.errors.InputError, match="the pool must have no dilation"):
        fm.nn.ConvReLUMaxPool2d.from_torch(nn.Conv2d(1, 1, 3), pool)


@pytest.mark.parametrize(("args", "words"), conv_checks.bad_inputs())
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


@pytest.mark.parametrize(
    ("pool", "words"),
    [
        ((0, None), "pool_kernel_size must be one or two integers >= 1"),
        ((2, 0), "pool_stride must be one or two integers >= 1"),
        ((16, None), "more than 254 pixels"),
        ((2, None, -1), "pool_padding must be one or two integers >= 0"),
        ((3, 1, (1, 2)), "pool_padding (1, 2) is more than half of pool_kernel_size (3, 3)"),
        ((7, None), "the pooled output would be 0 x 0"),
    ],
)
def test_bad_pool(pool, words):
    args = (torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3), None, 1, 0, 1, 1, *pool)
    op_checks.check_bad_input(OP, args, words)
