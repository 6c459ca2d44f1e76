"""conv_relu against F.relu(F.conv2d(...))."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import conv_checks, op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.conv_relu.cases import CASES


def plain(x, weight, bias, stride, padding, dilation, groups):
    return F.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


OP = OpUnderTest("conv_relu", fm.functional.conv_relu, plain, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
GEOMETRY = ((1, 1), (0, 0), (1, 1), 1)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    conv_checks.check_case(OP, case, backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_layouts(backend):
    conv_checks.check_layouts(OP, backend, ())


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_output_has_pytorchs_layout(format, backend):
    x = torch.randn(2, 5, 9, 8).contiguous(memory_format=format)
    weight = torch.randn(6, 5, 3, 3)
    with fm.use_backend(backend):
        out = fm.functional.conv_relu(x, weight)
    assert out.stride() == F.conv2d(x, weight).stride()


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_any_strides(backend):
    x = torch.randn(3, 12, 9, 20)[::2, 1:6, :, ::2]
    weight = torch.randn(3, 3, 5, 7).permute(3, 2, 0, 1) / 7
    args = (x, weight, torch.randn(14)[::2], *GEOMETRY)
    op_checks.check_any_strides(OP, args, backend, depth=63)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_nan_and_infinity(backend, format):
    """Values as PyTorch has them; gradients too where masked pixels meet no infinity or NaN of x.

    A NaN or an infinity in x behind a dead pixel makes NaN (0 * inf) of PyTorch's dense product and nothing
    here; with every pixel alive both agree.
    """
    x = torch.randn(1, 2, 6, 6).contiguous(memory_format=format)
    x[0, 0, 2, 2] = math.nan
    weight = torch.randn(5, 2, 3, 3)
    alive = torch.full((5,), 100.0)
    op_checks.check_special_values(OP, (x, weight, alive, *GEOMETRY), backend)
    x[0, 1, 5, 5], x[0, 0, 0, 0] = math.inf, -math.inf
    with fm.use_backend(backend):
        out = fm.functional.conv_relu(x, weight)
    torch.testing.assert_close(out, plain(x, weight, None, *GEOMETRY), equal_nan=True)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_depthwise_nan_layouts_and_strides(backend, format):
    """As the tests of any convolution above: a NaN in one channel stays in it."""
    geometry = ((1, 2), (1, 1), (1, 1), 5)
    x = torch.randn(2, 5, 7, 8).contiguous(memory_format=format)
    weight = torch.randn(5, 1, 3, 3)
    op_checks.check_any_strides(OP, (x, weight, torch.randn(5), *geometry), backend, depth=56)
    x[0, 1, 2, 2], x[1, 3, 5, 5] = math.nan, math.inf
    op_checks.check_special_values(OP, (x, weight, torch.full((5,), 100.0), *geometry), backend)


@pytest.mark.parametrize("forward", BACKENDS, ids=str)
@pytest.mark.parametrize("backward", BACKENDS, ids=str)
def test_passes_of_different_backends_combine(forward, backward):
    args = op_checks.leaves(BY_NAME["strided"].make(torch.float32))
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
@pytest.mark.parametrize("case", ["padded", "first-layer", "kernel-1x1", "depthwise-strided"])
def test_thread_counts(case, backend, threads):
    """As many threads as images, more, fewer."""
    op_checks.check_thread_counts(OP, BY_NAME[case], backend, threads)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_bfloat16_is_rounded_to_nearest_even(backend):
    conv_checks.check_bfloat16_rounding(OP, backend, ())


def test_only_the_gradients_wanted():
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME["padded"].make(torch.float32))


def _tiny(dtype):
    return (
        torch.randn(2, 2, 4, 5, dtype=dtype),
        torch.randn(3, 2, 2, 3, dtype=dtype),
        torch.randn(3, dtype=dtype),
        (1, 1),
        (1, 0),
        (1, 1),
        1,
    )


def test_derivatives():
    op_checks.check_derivatives(OP, _tiny(torch.float64))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_second_derivative_of_float32(backend):
    op_checks.check_mixed_second_derivative(OP, _tiny(torch.float32), backend)


@pytest.mark.parametrize("case", ["small-nchw", "padded"])
def test_registration(case):
    def backward_args(args, outs):
        x, weight, _, *geometry = args
        return (torch.randn_like(outs[0]), x, weight, outs[0], *geometry, [True, True, True])

    op_checks.check_registration(OP, BY_NAME[case].make(torch.float32), backward_args)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compiles_as_one_graph(format):
    x = torch.randn(2, 4, 9, 9).contiguous(memory_format=format)
    op_checks.check_compiles(fm.nn.ConvReLU2d(4, 6, 3, padding=1), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    x = torch.randn(2, 4, 8, 8)
    args = (x, torch.randn(6, 4, 3, 3) / 6, torch.randn(6), *GEOMETRY)
    op_checks.check_autocast(OP, args, dtype, depth=36)


def test_flops_are_counted():
    module = fm.nn.ConvReLU2d(4, 6, 3)
    x = torch.randn(2, 4, 8, 8)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 6 * 6 * 6 * 4 * 9) * 2  # x wants no gradient


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # PyTorch's own arm
@pytest.mark.parametrize("arguments", conv_checks.PADDINGS, ids=str)
def test_module(arguments, tmp_path):
    convolution = nn.Conv2d(4, 6, **arguments).eval()
    fused = fm.nn.ConvReLU2d.from_torch(convolution)
    conv_checks.check_module(fused, convolution, nn.Identity(), tmp_path)


@pytest.mark.parametrize(("args", "words"), conv_checks.bad_inputs())
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)
