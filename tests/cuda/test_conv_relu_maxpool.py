"""conv_relu_maxpool's CUDA kernels, each alone, against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import conv_checks, conv_cuda_checks, op_checks
from support.conv_cuda_checks import DTYPES, to_device
from support.op_checks import OpUnderTest
from support.row_choice import serve

import fastmodel as fm
from fastmodel.ops import conv_cuda
from fastmodel.ops.case import Case
from fastmodel.ops.conv_case import ConvInputs
from fastmodel.ops.conv_relu_maxpool import cuda_kernel, worth_cuda
from fastmodel.ops.conv_relu_maxpool.cases import CASES


def behind(dense, *pool):
    return F.max_pool2d(F.relu(dense), *pool)


def plain(x, weight, bias, stride, padding, dilation, groups, *pool):
    return behind(F.conv2d(x, weight, bias, stride, padding, dilation, groups), *pool)


OP = OpUnderTest("conv_relu_maxpool", fm.functional.conv_relu_maxpool, plain, CASES)
NO_GRAD_X = OpUnderTest(OP.name, OP.face, plain, CASES, constants=(0,))
BY_NAME = {case.name: case for case in CASES}
GEOMETRY = ((1, 1), (0, 0), (1, 1), 1, (2, 2), (2, 2), (0, 0))


def case(name: str, pool: tuple, *args, **options) -> Case:
    inputs = ConvInputs(*args, **options)
    return Case(name, lambda dtype: (*inputs.make(dtype), *pool), inputs.depth, inputs.flops, 0)


PAIRS = ((2, 2), (2, 2), (0, 0))
ANY = [c for c in OP.test_cases if c.name not in ("many-rows", "stem-11x11")]
OVERLAPPING = ("pool", "stem", "first-layer-overlapping")
DIRECT = [
    *[c for c in ANY if c.name != "grouped" and not c.name.startswith(OVERLAPPING)],
    BY_NAME["pool-with-gaps"],
    # Output channels below and above a tile; input channels over several rounds of shared memory, images
    # that share a block; windows over several tiles, also of one pixel more than the windows cover.
    case("direct-below", PAIRS, (1, 2, 9, 8), 31),
    case("direct-rounds", PAIRS, (3, 33, 13, 13), 34),
    case("direct-tiles", PAIRS, (2, 2, 37, 21), 33, (3, 3), padding=(1, 1)),
    case("direct-5x5-images", PAIRS, (9, 3, 10, 11), 40, (5, 5), padding=(1, 2), dilation=(1, 2)),
    case("direct-wide-padding", PAIRS, (2, 3, 7, 6), 9, (2, 3), padding=(3, 3)),
]
STRIDE_1 = [c for c in DIRECT if c.make(torch.float32)[3] == (1, 1)]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """A library's float32 products are float32's, and not those of tf32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ANY, ids=str)
def test_library_product(case, dtype, device, monkeypatch):
    serve(monkeypatch, OP.name, forward="forward", backward="backward")
    if dtype == torch.float32:
        conv_cuda_checks.check(OP, case, dtype, device)
    else:
        conv_cuda_checks.check_rounding_first(OP, behind, case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", STRIDE_1, ids=str)
def test_direct(case, dtype, device, monkeypatch):
    serve(monkeypatch, OP.name, forward="forward_direct", backward="backward_direct")
    conv_cuda_checks.check(OP, case, dtype, device)


@pytest.mark.parametrize("case", [c for c in DIRECT if c not in STRIDE_1], ids=str)
def test_direct_of_any_stride(case, device, monkeypatch):
    serve(monkeypatch, OP.name, forward="forward_direct", backward="backward_direct")
    conv_cuda_checks.check(NO_GRAD_X, case, torch.float32, device)


@pytest.mark.parametrize("case", [c for c in ANY if c.name.startswith("pool")], ids=str)
def test_direct_backward_of_any_windows(case, device, monkeypatch):
    serve(monkeypatch, OP.name, forward="forward", backward="backward_direct")
    conv_cuda_checks.check(OP, case, torch.float32, device)


@pytest.mark.parametrize("kernel", ["", "_direct"])
def test_layouts(kernel, device, monkeypatch):
    serve(monkeypatch, OP.name, forward=f"forward{kernel}", backward=f"backward{kernel}")
    conv_checks.check_layouts(OP, "cuda", ((2, 2), None, (0, 0)), device)


@pytest.mark.parametrize("kernel", ["", "_direct"])
def test_any_strides(kernel, device, monkeypatch):
    serve(monkeypatch, OP.name, forward=f"forward{kernel}", backward=f"backward{kernel}")
    x = torch.randn(3, 12, 9, 20)[::2, 1:6, :, ::2]
    weight = torch.randn(3, 3, 5, 7).permute(3, 2, 0, 1) / 7
    args = to_device((x, weight, torch.randn(14)[::2], *GEOMETRY), device)
    op_checks.check_any_strides(OP, args, "cuda", depth=45)


@pytest.mark.parametrize("kernel", ["", "_direct"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity(kernel, value, device, monkeypatch):
    """As tests/ops/test_conv_relu_maxpool.py has it."""
    serve(monkeypatch, OP.name, forward=f"forward{kernel}", backward=f"backward{kernel}")
    weight = torch.randn(5, 2, 3, 3)
    x = torch.randn(1, 2, 8, 8)
    x[0, 0, 2, 2] = value
    args = to_device((x, weight, None, *GEOMETRY), device)
    ours, theirs = (op_checks.leaves(args) for _ in range(2))
    with fm.use_backend("cuda"):
        out, grad_x, grad_weight = op_checks.run_with_gradients(OP.face, ours, "nan")
    expected, *gradients = op_checks.run_with_gradients(plain, theirs, "nan")
    torch.testing.assert_close(out, expected, equal_nan=True)
    torch.testing.assert_close(grad_x, gradients[0], equal_nan=True)
    finite = gradients[1].isfinite()
    torch.testing.assert_close(grad_weight[finite], gradients[1][finite])
    if math.isnan(value):
        assert not grad_weight.isfinite().all()


@pytest.mark.parametrize("kernel", ["", "_direct"])
def test_argmax_is_the_references(kernel, device, monkeypatch):
    """Ties, dead windows and several NaN in one window: the same byte as the definition's."""
    x = torch.randint(-2, 3, (2, 1, 8, 6), device=device).float()
    x[0, 0, :2, :2] = torch.tensor([[math.nan, 1.0], [math.nan, 2.0]])
    weight = torch.tensor([1.0, -1.0, 0.0] * 7, device=device).view(21, 1, 1, 1)
    args = (x, weight, torch.zeros(21, device=device), *GEOMETRY)
    found = getattr(cuda_kernel, f"forward{kernel}")(*args)
    with fm.use_backend("reference"):
        expected = torch.ops.fastmodel.conv_relu_maxpool(*args)
    for a, b in zip(found, expected, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, equal_nan=True)
    assert found[1].unique().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kernel", ["", "_direct"])
def test_sums_that_many_blocks_share(kernel, device, monkeypatch):
    """The same bits in each of two runs, and float64's values."""
    serve(monkeypatch, OP.name, forward=f"forward{kernel}", backward=f"backward{kernel}")
    monkeypatch.setattr(conv_cuda, "LEAST_ITEMS", 7)
    case = BY_NAME["padded"]
    conv_cuda_checks.check(OP, case, torch.float32, device)
    args = OP.leaves(to_device(case.make(torch.float32), device))
    with fm.use_backend("cuda"):
        runs = [op_checks.run_with_gradients(OP.face, args, case.name) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backward", ["backward", "backward_direct"])
def test_only_the_gradients_wanted(backward, device, monkeypatch):
    serve(monkeypatch, OP.name, backward=backward)
    with fm.use_backend("cuda"):
        args = to_device(BY_NAME["padded"].make(torch.float32), device)
        op_checks.check_only_the_gradients_wanted(OP, args)


def test_windows_that_the_direct_forward_does_not_take(device, monkeypatch):
    serve(monkeypatch, OP.name, forward="forward_direct")
    x, weight = torch.randn(1, 1, 22, 22, device=device), torch.randn(2, 1, 3, 3, device=device)
    with fm.use_backend("cuda"):
        for pool in ((3, 3), (2, 1), (2, 2, 1)):
            with pytest.raises(fm.errors.BackendError, match="not 2 x 2 apart"):
                fm.functional.conv_relu_maxpool(x, weight, None, 1, 0, 1, 1, *pool)
        with pytest.raises(fm.errors.BackendError, match="shared memory"):
            fm.functional.conv_relu_maxpool(x, torch.ones(2, 1, 19, 19, device=device))


def test_strides_that_the_direct_backward_does_not_take(device, monkeypatch):
    serve(monkeypatch, OP.name, backward="backward_direct")
    x = torch.randn(1, 1, 12, 12, device=device).requires_grad_()
    weight = torch.randn(2, 1, 3, 3, device=device)
    with fm.use_backend("cuda"):
        out = fm.functional.conv_relu_maxpool(x, weight, None, 2)
        with pytest.raises(fm.errors.BackendError, match="stride 1 alone"):
            out.sum().backward()


def test_small_layers_are_served_by_the_direct_kernels():
    """MNIST's two by rule, one of ImageNet's size by the library's product."""
    for name, is_direct in (("mnist-conv1", True), ("mnist-conv2", True), ("vgg-64", False)):
        args = BY_NAME[name].make(torch.float32)
        assert (worth_cuda.forward_direct(*args) is None) == is_direct
        backward = (args[0], *args[:2], args[0], *args[3:], [True] * 3)
        assert (worth_cuda.backward_direct(*backward) is None) == is_direct
