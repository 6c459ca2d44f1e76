"""conv_relu's CUDA kernels, each alone, against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import conv_checks, conv_cuda_checks, op_checks
from support.conv_cuda_checks import DTYPES, to_device
from support.op_checks import OpUnderTest
from support.row_choice import serve

import fastmodel as fm
from fastmodel.ops import conv_cuda, dispatch
from fastmodel.ops.case import Case
from fastmodel.ops.conv_case import ConvInputs
from fastmodel.ops.conv_relu import cuda_kernel, cudnn
from fastmodel.ops.conv_relu.cases import CASES

from .conftest import IS_GPU_HERE


def plain(x, weight, bias, stride, padding, dilation, groups):
    return F.relu(F.conv2d(x, weight, bias, stride, padding, dilation, groups))


OP = OpUnderTest("conv_relu", fm.functional.conv_relu, plain, CASES)
NO_GRAD_X = OpUnderTest("conv_relu", fm.functional.conv_relu, plain, CASES, constants=(0,))
BY_NAME = {case.name: case for case in CASES}
GEOMETRY = ((1, 1), (0, 0), (1, 1), 1)


def case(name: str, *args, **options) -> Case:
    inputs = ConvInputs(*args, **options)
    return Case(name, inputs.make, inputs.depth, inputs.flops, 0)


def named(*names: str) -> list[Case]:
    return [BY_NAME[name] for name in names]


ANY = [
    *[c for c in OP.test_cases if not c.name.startswith("many")],
    # More packs of a channel's planes, and more pixels, than a block has threads.
    case("long-planes", (5, 2, 20, 13), 3, (1, 1), is_channels_last=False),
    case("long-rows", (5, 2, 20, 13), 8, (1, 1)),
]
DENSE = [c for c in ANY if "depthwise" not in c.name and c.name != "grouped"]
DEPTHWISE = [
    *[c for c in ANY if "depthwise" in c.name],
    # Packs of 16 bytes; channels over more than one tile of lanes; more taps than a thread sums.
    case("depthwise-packs", (2, 16, 6, 9), 16, padding=(1, 1), groups=16),
    case("depthwise-tiles", (1, 264, 4, 5), 264, (2, 2), groups=264),
    case("depthwise-5x5", (2, 8, 9, 8), 8, (5, 5), (2, 1), (2, 2), groups=8),
    # More runs of pixels than blocks are made for, in the emulation.
    case("depthwise-walk", (2, 128, 132, 1), 128, (2, 1), groups=128),
]
DIRECT = [
    *DENSE,
    # Input channels over several rounds of shared memory; windows over several tiles and images.
    case("direct-rounds", (3, 33, 13, 12), 34, padding=(1, 1)),
    case("direct-tiles", (2, 2, 19, 36), 31, (3, 3)),
    case("direct-5x5-images", (9, 3, 7, 8), 33, (5, 5), padding=(2, 2)),
]
GEMM = [
    *named("one-pixel", "padded", "padded-unevenly", "empty-batch"),
    # Channels and pixels one less and one more than a tile; more and fewer slices of depth than stages.
    case("gemm-below", (1, 8, 10, 14), 63, (1, 1), padding=(1, 0)),
    case("gemm-above", (3, 16, 5, 9), 65, padding=(1, 1)),
    case("gemm-strided", (2, 24, 11, 8), 16, (3, 2), (2, 1), (1, 0), (3, 2)),
    case("gemm-5x5-no-bias", (1, 8, 7, 6), 10, (5, 5), has_bias=False),
    case("gemm-1x1", (1, 40, 3, 5), 24, (1, 1)),
    case("gemm-nchw", (1, 8, 6, 5), 8, is_channels_last=False),
]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """A library's float32 products are float32's, and not those of tf32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def tf32(exact_products, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ANY, ids=str)
def test_library_product(case, dtype, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward", backward="backward")
    if dtype == torch.float32:
        conv_cuda_checks.check(OP, case, dtype, device)
    else:
        conv_cuda_checks.check_rounding_first(OP, F.relu, case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DIRECT, ids=str)
def test_direct(case, dtype, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_direct", backward="backward_direct")
    conv_cuda_checks.check(NO_GRAD_X, case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", DEPTHWISE, ids=str)
def test_depthwise(case, dtype, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_depthwise", backward="backward_depthwise")
    conv_cuda_checks.check(OP, case, dtype, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", GEMM, ids=str)
def test_gemm(case, dtype, device, monkeypatch, tf32):
    """float32 with values that tf32 holds: their products and sums are float32's."""
    x, weight, *rest = case.make(torch.bfloat16 if dtype == torch.float32 else dtype)
    if dtype == torch.float32:
        rest[0] = None if rest[0] is None else rest[0].float()
    case = Case(case.name, lambda _: (x.to(dtype), weight.to(dtype), *rest), case.depth, 0, 0)
    serve(monkeypatch, "conv_relu", forward="forward_gemm")
    args = to_device(case.make(dtype), device)
    if cuda_kernel.forward_gemm_condition(*args) is not None:
        with fm.use_backend("cuda"), pytest.raises(fm.errors.BackendError, match="16 bytes"):
            OP.face(*args)
        return
    conv_cuda_checks.check_forward(OP, case, dtype, device)


def test_gemm_rounds_float32_to_tf32(device, monkeypatch, tf32):
    """1 + 2^-11 is 1 + 2^-10 in tf32 (ties away from zero), 1 + 2^-12 is 1."""
    serve(monkeypatch, "conv_relu", forward="forward_gemm")
    x = torch.tensor([1 + 2**-11, 1 + 2**-12, 0, 0], device=device).view(1, 4, 1, 1)
    weight = torch.eye(4, device=device)[:, :, None, None]
    with fm.use_backend("cuda"):
        out = fm.functional.conv_relu(x, weight)
    assert out.flatten().tolist() == [1 + 2**-10, 1, 0, 0]


def test_gemm_asks_for_tf32(device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_gemm")
    x, weight = torch.ones(1, 8, 2, 2, device=device), torch.ones(4, 8, 1, 1, device=device)
    with fm.use_backend("cuda"):
        with pytest.raises(fm.errors.BackendError, match="allow_tf32 is off"):
            fm.functional.conv_relu(x, weight)
        assert fm.functional.conv_relu(x.bfloat16(), weight.bfloat16()).eq(8).all()


@pytest.mark.parametrize(
    ("dtype", "channels", "expected"),
    [
        (torch.float32, 8, "forward"),
        (torch.bfloat16, 8, "forward_gemm"),
        (torch.bfloat16, 9, "forward"),
        (torch.bfloat16, 3, "forward_direct"),
    ],
    ids=str,
)
def test_which_forward_is_served_by_name(dtype, channels, expected, device):
    """Tensor cores', which automatic choice passes over until it is measured to win."""
    x = torch.ones(1, channels, 5, 5, dtype=dtype, device=device)
    args = x, torch.ones(8, channels, 3, 3, dtype=dtype, device=device), None, *GEOMETRY
    with fm.use_backend("cuda"):
        assert dispatch.choose("conv_relu", "forward", *args) is getattr(cuda_kernel, expected)
    automatic = dispatch._candidates("conv_relu", "forward", "cuda", dtype, None)
    assert cuda_kernel.forward_gemm not in [kernel for kernel, _ in automatic]


@pytest.mark.parametrize("forward", ["forward", "forward_direct"])
def test_layouts(forward, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward=forward, backward="backward")
    conv_checks.check_layouts(OP, "cuda", (), device)


@pytest.mark.parametrize("backward", ["backward", "backward_direct"])
def test_any_strides(backward, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_direct", backward=backward)
    x = torch.randn(3, 12, 9, 20)[::2, 1:6, :, ::2]
    weight = torch.randn(3, 3, 5, 7).permute(3, 2, 0, 1) / 7
    op = OP if backward == "backward" else NO_GRAD_X
    args = to_device((x, weight, torch.randn(14)[::2], *GEOMETRY), device)
    op_checks.check_any_strides(op, args, "cuda", 63)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("forward", ["forward", "forward_direct", "forward_gemm"])
def test_nan_and_infinity(forward, format, device, monkeypatch, tf32):
    """As tests/ops/test_conv_relu.py has it."""
    backward = "backward" if forward == "forward_gemm" else forward.replace("forward", "backward")
    op = NO_GRAD_X if backward == "backward_direct" else OP
    serve(monkeypatch, "conv_relu", forward=forward, backward=backward)
    x = torch.randn(1, 4, 6, 6).to(torch.bfloat16).float().contiguous(memory_format=format)
    x[0, 0, 2, 2] = math.nan
    weight = torch.randn(5, 4, 3, 3).to(torch.bfloat16).float()
    x, weight, bias = to_device((x, weight, torch.full((5,), 100.0)), device)
    op_checks.check_special_values(op, (x, weight, bias, *GEOMETRY), "cuda")
    x[0, 1, 5, 5], x[0, 0, 0, 0] = math.inf, -math.inf
    with fm.use_backend("cuda"):
        out = fm.functional.conv_relu(x, weight)
    torch.testing.assert_close(out, plain(x, weight, None, *GEOMETRY), equal_nan=True)


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_depthwise_nan_layouts_and_strides(format, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_depthwise", backward="backward_depthwise")
    geometry = ((1, 2), (1, 1), (1, 1), 8)
    x = torch.randn(2, 8, 7, 8).contiguous(memory_format=format)
    weight = torch.randn(8, 1, 3, 3)
    x, weight, bias, alive = to_device((x, weight, torch.randn(8), torch.full((8,), 100.0)), device)
    op_checks.check_any_strides(OP, (x, weight, bias, *geometry), "cuda", depth=56)
    x[0, 1, 2, 2], x[1, 3, 5, 5] = math.nan, math.inf
    weight[3].abs_()  # pixels that see the infinity live, so that no masked one multiplies it
    op_checks.check_special_values(OP, (x, weight, alive, *geometry), "cuda")


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(
    ("kernel", "name", "op"),
    [
        ("", "padded", OP),
        ("_direct", "first-layer", NO_GRAD_X),
        ("_depthwise", "depthwise", OP),
    ],
)
def test_sums_that_many_blocks_share(kernel, name, op, format, device, monkeypatch):
    """The same bits in each of two runs, and float64's values."""
    serve(monkeypatch, "conv_relu", forward=f"forward{kernel}", backward=f"backward{kernel}")
    monkeypatch.setattr(conv_cuda, "LEAST_ITEMS", 7)
    x, *rest = BY_NAME[name].make(torch.float32)
    assert conv_cuda.splits(x[:, 0].numel(), 1) > 8
    shared = Case(name, lambda _: (x.contiguous(memory_format=format), *rest), 300, 0, 0)
    conv_cuda_checks.check(op, shared, torch.float32, device)
    args = op.leaves(to_device(shared.make(torch.float32), device))
    with fm.use_backend("cuda"):
        runs = [op_checks.run_with_gradients(op.face, args, name) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("backward", ["backward", "backward_depthwise"])
def test_only_the_gradients_wanted(backward, device, monkeypatch):
    serve(monkeypatch, "conv_relu", backward=backward)
    name = "padded" if backward == "backward" else "depthwise"
    with fm.use_backend("cuda"):
        args = to_device(BY_NAME[name].make(torch.float32), device)
        op_checks.check_only_the_gradients_wanted(OP, args)


def test_only_the_gradients_wanted_of_the_direct_backward(device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_direct", backward="backward_direct")
    x, weight, bias, *rest = to_device(BY_NAME["padded"].make(torch.float32), device)
    with fm.use_backend("cuda"):
        for wanted in ([True, False], [False, True], [True, True]):
            ours, theirs = ((weight.clone(), bias.clone()) for _ in range(2))
            for pair in (ours, theirs):
                for tensor, want in zip(pair, wanted, strict=True):
                    tensor.requires_grad_(want)
            OP.face(x, *ours, *rest).sum().backward()
            plain(x, *theirs, *rest).sum().backward()
            for a, b in zip(ours, theirs, strict=True):
                assert (a.grad is None) == (b.grad is None)
                if a.grad is not None:
                    torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
        leaf = x.clone().requires_grad_()
        out = OP.face(leaf, weight, bias, *rest)
        with pytest.raises(fm.errors.BackendError, match="no gradient of x"):
            out.sum().backward()


@pytest.mark.parametrize("forward", ["forward_direct", "forward_gemm"])
def test_bfloat16_is_rounded_to_nearest_even(forward, device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward=forward, backward="backward")
    channels = 1 if forward == "forward_direct" else 8
    x, weight = torch.rand(2, channels, 6, 6), torch.rand(33, channels, 1, 1)
    weight[:, 1:] = 0  # every output is one product, exact in float32
    x, weight = x.to(device).bfloat16(), weight.to(device).bfloat16()
    with fm.use_backend("cuda"):
        out = fm.functional.conv_relu(x, weight)
    assert torch.equal(out, plain(x.float(), weight.float(), None, *GEOMETRY).bfloat16())


def test_a_filter_too_large_for_shared_memory(device, monkeypatch):
    serve(monkeypatch, "conv_relu", forward="forward_direct")
    x = torch.randn(1, 1, 20, 20, device=device)
    weight = torch.randn(2, 1, 19, 19, device=device)
    with fm.use_backend("cuda"), pytest.raises(fm.errors.BackendError, match="shared memory"):
        fm.functional.conv_relu(x, weight)


@pytest.mark.parametrize("kernel", ["_direct", "_depthwise"])
def test_infinity_behind_dead_pixels(kernel, device, monkeypatch):
    """It meets no gradient: PyTorch's dense product has 0 * inf = NaN there, the sum over live pixels not."""
    serve(monkeypatch, "conv_relu", forward=f"forward{kernel}", backward=f"backward{kernel}")
    x, weight = torch.rand(1, 4, 5, 5, device=device), -torch.rand(4, 1, 3, 3, device=device)
    x[0, 1, 2, 2] = math.inf
    if kernel == "_direct":
        weight = weight.expand(4, 4, 3, 3)
    weight = weight.clone().requires_grad_()
    with fm.use_backend("cuda"):
        out = fm.functional.conv_relu(x, weight, groups=4 if kernel == "_depthwise" else 1)
        out.sum().backward()
    assert not out.any()
    assert not weight.grad.any()


@pytest.mark.skipif(not IS_GPU_HERE, reason="cuDNN needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_cudnn_where_it_serves(dtype, device):
    case = BY_NAME["padded"]
    args = to_device(case.make(dtype), device)
    if cudnn.forward_condition(*args) is not None:
        pytest.skip(cudnn.forward_condition(*args))
    expected = plain(*(a.double() if isinstance(a, torch.Tensor) else a for a in args))
    op_checks.assert_close(cudnn.forward(*args), expected, dtype, case.depth, "cuDNN")


def test_splits():
    assert conv_cuda.splits(0, 5) == 1
    assert conv_cuda.splits(256, 1) == 1
    assert conv_cuda.splits(257, 1) == 2
    assert conv_cuda.splits(10**9, 1) == 1024
    assert conv_cuda.splits(10**9, 100) == 10
    assert conv_cuda.splits(10**9, 10**4) == 1
    assert conv_cuda.splits(1, 0) == 1


class FakeCudnn:
    """cuDNN's convolution with ReLU on the CPU, which keeps NaN or not."""

    def __init__(self, keeps_nan: bool):
        self.keeps_nan = keeps_nan
        self.calls = 0

    def __call__(self, x, weight, bias, *options):
        self.calls += 1
        dense = F.conv2d(x, weight, bias, *options)
        return dense.relu() if self.keeps_nan else dense.nan_to_num(0).relu()


@pytest.fixture
def fake_cudnn(monkeypatch, request):
    fake = FakeCudnn(request.param)
    monkeypatch.setattr(torch, "cudnn_convolution_relu", fake)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda x: True)
    monkeypatch.setattr(cudnn, "_is_right", {})
    return fake


CALL = (torch.randn(2, 3, 7, 6), torch.randn(5, 3, 3, 3), torch.randn(5), (2, 1), (1, 0), (1, 1), 1)


@pytest.mark.parametrize("fake_cudnn", [True], indirect=True)
def test_cudnn_serves_what_it_has_been_seen_to_do_right(fake_cudnn):
    assert cudnn.forward_condition(*CALL) is None
    assert cudnn.forward_condition(*CALL) is None
    assert fake_cudnn.calls == 1
    torch.testing.assert_close(cudnn.forward(*CALL), plain(*CALL))
    x, *rest = CALL
    last = x.contiguous(memory_format=torch.channels_last)
    assert cudnn.forward_condition(last, *rest) is None
    assert fake_cudnn.calls == 3  # another kind of call
    assert cudnn.forward(last, *rest).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fake_cudnn", [False], indirect=True)
def test_cudnn_does_not_serve_where_it_loses_nan(fake_cudnn):
    assert cudnn.forward_condition(*CALL) == "cuDNN's ReLU loses NaN here"


@pytest.mark.parametrize("fake_cudnn", [True], indirect=True)
def test_cudnn_does_not_serve_large_filters_or_nothing(fake_cudnn):
    x, _, *rest = CALL
    assert "large filters" in cudnn.forward_condition(x, torch.randn(5, 3, 7, 7), *rest)
    assert cudnn.forward_condition(x[:0], *CALL[1:]) == "x is empty"
    assert fake_cudnn.calls == 0


def test_cudnn_does_not_serve_tensors_that_it_does_not_take():
    assert cudnn.forward_condition(*CALL) == "cuDNN is not available for x"
