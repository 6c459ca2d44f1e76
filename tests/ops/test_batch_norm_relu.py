"""batch_norm_relu against F.relu(F.batch_norm(...))."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops import dispatch
from fastmodel.ops.batch_norm_relu.cases import CASES, EPS


def plain(*args):
    return F.relu(F.batch_norm(*args))


RUNNING = (1, 2)
OP = OpUnderTest("batch_norm_relu", fm.functional.batch_norm_relu, plain, CASES, constants=RUNNING)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
FORMATS = (torch.contiguous_format, torch.channels_last)
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)
both_formats = pytest.mark.parametrize("format", FORMATS, ids=str)


def images(*shape, format=torch.contiguous_format, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=format)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_running_statistics(case, backend, dtype):
    """Moved once, by momentum, with the unbiased variance; in evaluation, and by nothing, not at all."""
    if backend is not None and not op_checks.serves(OP.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {OP.name}")
    args = case.make(dtype)
    if args[1] is None:
        pytest.skip("no running statistics")
    twin = tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)
    before = [args[i].clone() for i in RUNNING]
    with fm.use_backend(backend):
        OP.face(*args)
    plain(*twin)
    for i, old in zip(RUNNING, before, strict=True):
        op_checks.assert_close(args[i], twin[i], dtype, case.depth, f"{case} running {i}")
        assert torch.equal(args[i], old) == (not args[5] or args[0].numel() == 0)


@everywhere
@both_formats
@pytest.mark.parametrize("is_training", [True, False])
def test_mixed_dtypes(is_training, format, backend):
    """bfloat16 images beside float32 parameters, as under autocast: one rounding, of the output alone."""
    x = images(4, 6, 5, 5, format=format, dtype=torch.bfloat16)
    running = torch.randn(6) * 0.1, torch.rand(6) + 0.5
    args = (x, *running, torch.rand(6) + 0.5, torch.randn(6), is_training, 0.1, EPS)

    def run(call, dtype):
        own = None if dtype == torch.bfloat16 else dtype
        channels = [a.to(own or a.dtype, copy=True) for a in args[1:5]]
        leaves = OP.leaves((x.to(dtype), *channels, *args[5:]))
        out = call(*leaves)
        wanted = op_checks.tensors(leaves)
        grads = torch.autograd.grad(out, wanted, op_checks.gradient_like(out, "mixed"))
        return [out, *grads, leaves[1], leaves[2]]

    with fm.use_backend(backend):
        found = run(OP.face, torch.bfloat16)
    expected = run(OP.plain, torch.float64)
    kinds = [torch.bfloat16, torch.bfloat16, *[torch.float32] * 4]
    for a, b, dtype in zip(found, expected, kinds, strict=True):
        assert a.dtype == dtype
        op_checks.assert_close(a, b, dtype, 100, "mixed")


@everywhere
@both_formats
@pytest.mark.parametrize("offset", [1e3, -1e4])
def test_a_mean_far_from_zero_costs_the_variance_nothing(offset, format, backend):
    """With E[x^2] - E[x]^2 in float32 the variance of 1 beside 1e8 would be lost altogether."""
    x = (images(20, 3, 24, 24) + offset).contiguous(memory_format=format)
    args = (x, torch.zeros(3), torch.zeros(3), None, None, True, 1.0, EPS)
    wide = tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)
    with fm.use_backend(backend):
        out = OP.face(*args)
    expected = OP.plain(*wide)
    torch.testing.assert_close(args[2].double(), wide[2], rtol=1e-5, atol=0)
    torch.testing.assert_close(args[1].double(), wide[1], rtol=2 * torch.finfo(x.dtype).eps, atol=0)
    # A mean in float32 is off by eps times itself.
    rounding = abs(offset) * torch.finfo(x.dtype).eps
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=2 * rounding)


@everywhere
@both_formats
def test_images_of_another_kind_come_first(format, backend):
    """The first images tell nothing of the rest: a shift taken from them alone would be far off."""
    x = images(20, 3, 24, 24) * 1e-3 + 7.0
    x[0] = -5.0
    args = (x.contiguous(memory_format=format), torch.zeros(3), torch.zeros(3), None, None, True)
    wide = tuple(a.double() if isinstance(a, torch.Tensor) else a for a in args)
    with fm.use_backend(backend):
        OP.face(*args, 1.0)
    OP.plain(*wide, 1.0)
    torch.testing.assert_close(args[2].double(), wide[2], rtol=2e-6, atol=0)


@everywhere
@both_formats
@pytest.mark.parametrize("is_training", [True, False])
def test_any_strides(is_training, format, backend):
    args = (
        images(3, 7, 5, 6, format=format),
        *(torch.randn(7) * 0.1, torch.rand(7) + 0.5, torch.randn(7), torch.randn(7)),
        *(is_training, 0.0, EPS),
    )
    op_checks.check_any_strides(OP, args, backend, depth=90)
    sliced = (images(6, 7, 5, 12, format=format)[::2, :, :, ::2], *args[1:])
    op_checks.check_any_strides(OP, sliced, backend, depth=90)


@everywhere
def test_layout_is_pytorchs(backend):
    x = torch.randn(4, 6, 5, 10)
    last = x.contiguous(memory_format=torch.channels_last)
    transposed = torch.randn(6, 4, 10, 5).permute(1, 0, 3, 2)
    for value in (x, last, x[..., ::2], last[..., ::2], transposed, x[:, :1], x[..., :1, :1]):
        value = value.detach().requires_grad_()
        with fm.use_backend(backend):
            out = OP.face(value, None, None, training=True)
        expected = OP.plain(value, None, None, None, None, True)
        assert out.stride() == expected.stride()
        (grad,) = torch.autograd.grad(out, value, torch.ones_like(out))
        assert (
            grad.stride() == torch.autograd.grad(expected, value, torch.ones_like(out))[0].stride()
        )


@everywhere
@both_formats
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_special_values(value, is_training, format, backend):
    """A NaN or infinity is in its own channel alone, and in its statistics."""
    x = images(3, 5, 6, 7, format=format)
    x[1, 2, 3, 4] = value
    running = torch.zeros(5), torch.ones(5)
    # Of an infinite weight PyTorch makes inf - inf, from x * scale + (bias - mean * scale).
    weight = torch.tensor([1.0, value if math.isnan(value) else 1.0, 1.0, 1.0, 1.0])
    for bias in (torch.full((5,), 0.5), torch.tensor([0.5, 0.5, 0.5, 0.5, value])):
        args = (x, *running, weight, bias, is_training, 0.0, EPS)
        op_checks.check_special_values(OP, args, backend)
    mine, theirs = [t.clone() for t in running], [t.clone() for t in running]
    with fm.use_backend(backend):
        OP.face(x, *mine, training=is_training)
    OP.plain(x, *theirs, None, None, is_training)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


@everywhere
def test_a_constant_channel_has_no_variance(backend):
    """eps alone is under the root; the ReLU's zero is dead."""
    x = torch.full((4, 3, 5, 5), 3.0)
    x[:, 1] = torch.randn(4, 5, 5)
    args = (x, torch.zeros(3), torch.ones(3), torch.ones(3), torch.tensor([0.0, 0.0, 1.0]), True)
    op_checks.check_special_values(OP, (*args, 0.0, 1e-3), backend)


@everywhere
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 0.7])
@pytest.mark.parametrize("is_training", [True, False])
def test_eps(is_training, eps, backend):
    running = torch.zeros(3), torch.full((3,), 0.1)
    x = images(4, 3, 5, 5) * 0.1
    args = (x, *running, torch.rand(3) + 0.5, torch.rand(3), is_training, 0.0, eps)
    op_checks.check_any_strides(OP, args, backend, depth=100)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@everywhere
@pytest.mark.parametrize("name", ["two-threads", "two-threads-last", "rows-above", "wide-rows"])
def test_thread_counts(name, backend, threads):
    op_checks.check_thread_counts(OP, BY_NAME[name], backend, threads)


@both_formats
@everywhere
def test_bfloat16_is_rounded_to_nearest_even(backend, format):
    """In evaluation, of products that float32 holds exactly."""
    x = (torch.rand(3, 5, 4, 4) + 0.5).contiguous(memory_format=format).to(torch.bfloat16)
    weight = (torch.rand(5) + 0.5).to(torch.bfloat16)
    args = (x, torch.zeros(5), torch.ones(5), weight.float(), None, False, 0.1, 0.0)
    grad = torch.full_like(x, 1.0078125)

    def run(call, dtype):
        leaf = x.to(dtype).requires_grad_()
        out = call(leaf, *args[1:])
        return [out, *torch.autograd.grad(out, leaf, grad.to(dtype))]

    with fm.use_backend(backend):
        found = run(OP.face, torch.bfloat16)
    for a, b in zip(found, run(OP.plain, torch.float32), strict=True):
        assert torch.equal(a, b.to(torch.bfloat16))


@everywhere
@both_formats
@pytest.mark.parametrize("is_training", [True, False])
def test_only_the_gradients_wanted(is_training, format, backend):
    x = images(3, 5, 4, 4, format=format)
    running = torch.zeros(5), torch.ones(5)
    args = (x, *running, torch.rand(5) + 0.5, torch.randn(5), is_training, 0.0, EPS)
    with fm.use_backend(backend):
        op_checks.check_only_the_gradients_wanted(OP, args)


@pytest.mark.parametrize("name", ["tiny", "tiny-last", "evaluation", "no-running", "not-affine"])
def test_derivatives(name):
    args = BY_NAME[name].make(torch.float64)
    op_checks.check_derivatives(OP, (*args[:6], 0.0, EPS))


@everywhere
@pytest.mark.parametrize("name", ["tiny", "tiny-last", "evaluation-last"])
def test_second_derivative_of_float32(name, backend):
    args = BY_NAME[name].make(torch.float32)
    op_checks.check_mixed_second_derivative(OP, (*args[:6], 0.0, EPS), backend)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own arm
def test_forward_mode_derivative():
    """By the reference; the running statistics stay plain numbers."""
    x = images(3, 2, 4, 4, dtype=torch.float64)
    moved = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, x.cos())
        ours = OP.face(dual, *moved, training=True)
        theirs = OP.plain(dual, None, None, None, None, True)
        for a, b in zip(*map(torch.autograd.forward_ad.unpack_dual, (ours, theirs)), strict=True):
            torch.testing.assert_close(a, b)
        assert torch.autograd.forward_ad.unpack_dual(moved[0]).tangent is None
    torch.testing.assert_close(moved[0], 0.1 * x.mean((0, 2, 3)))


@pytest.mark.parametrize("name", ["tiny", "tiny-last", "evaluation", "not-affine", "no-running"])
def test_registration(name):
    x, mean, var, weight, bias, is_training, _, eps = BY_NAME[name].make(torch.float32)

    def backward_args(args, outs):
        wanted = [True, weight is not None, bias is not None]
        return torch.randn_like(outs[0]), *args[:3], *outs[1:], is_training, eps, wanted

    running = (mean, var)
    op_checks.check_registration(OP, (x, weight, bias, *running, is_training, eps), backward_args)


@both_formats
@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiles_as_one_graph(momentum, format):
    module = fm.nn.BatchNormReLU2d(4, momentum=momentum)
    if (
        momentum is None
    ):  # float(num_batches_tracked) is a value that no graph has, in PyTorch's too
        module.eval()
    op_checks.check_compiles(module, images(2, 4, 9, 9, format=format))


def test_a_compiled_module_moves_its_statistics_once():
    torch._dynamo.reset()
    fused, twin = fm.nn.BatchNormReLU2d(4), nn.BatchNorm2d(4)
    compiled = torch.compile(fused, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        x = images(3, 4, 5, 5).requires_grad_()
        compiled(x).sum().backward()
        twin(x)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(fused.get_buffer(name), buffer)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    args = (images(3, 4, 8, 8), torch.zeros(4), torch.ones(4), torch.rand(4) + 0.5, torch.rand(4))
    op = OpUnderTest(OP.name, OP.face, OP.plain, CASES, constants=RUNNING)
    op_checks.check_autocast(op, (*args, True, 0.0, EPS), dtype, depth=192)


def test_no_flops_are_counted_as_pytorch_counts_none():
    x = images(3, 5, 4, 4).requires_grad_()
    for call in (OP.face, OP.plain):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            call(x, None, None, None, None, True).sum().backward()
        assert counter.get_total_flops() == 0


MODULES = {
    "plain": {},
    "average": {"momentum": None},
    "untracked": {"track_running_stats": False},
    "not-affine": {"affine": False},
    "no-bias": {"bias": False},
    "eps-momentum": {"eps": 0.1, "momentum": 0.7},
}


@everywhere
@both_formats
@pytest.mark.parametrize("name", MODULES)
def test_module_trains_as_pytorchs(name, format, backend):
    """Three batches, then evaluation: outputs, gradients and every buffer."""
    norm = nn.BatchNorm2d(5, **MODULES[name])
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    fused = fm.nn.BatchNormReLU2d.from_torch(copy.deepcopy(norm))
    for is_training in (True, True, True, False):
        x = images(4, 5, 6, 6, format=format) + 1.0
        results = []
        for module in (fused.train(is_training), norm.train(is_training)):
            leaf = x.clone().requires_grad_()
            with fm.use_backend(backend if module is fused else None):
                out = module(leaf) if module is fused else F.relu(module(leaf))
                wanted = [leaf, *module.parameters()]
                grads = torch.autograd.grad(out, wanted, op_checks.gradient_like(out, name))
            results.append([out, *grads, *module.buffers()])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_module_is_a_batch_norm(tmp_path):
    norm = nn.BatchNorm2d(5, eps=0.01, momentum=0.3).eval()
    norm(images(2, 5, 3, 3))
    fused = fm.nn.BatchNormReLU2d.from_torch(norm)
    assert isinstance(fused, nn.BatchNorm2d) and not fused.training
    assert repr(fused) == f"BatchNormReLU2d{repr(norm).removeprefix('BatchNorm2d')}"
    assert list(fused.state_dict()) == list(norm.state_dict())
    for name, tensor in norm.state_dict(keep_vars=True).items():
        assert fused.state_dict(keep_vars=True)[name] is tensor
    x = images(2, 5, 3, 3)
    op_checks.check_module_twins(fused, lambda x: norm(x).relu(), x, tmp_path)
    norm.train(), fused.train()
    fused(x)
    assert norm.num_batches_tracked == 1, "both move the very same statistics"
    fused.load_state_dict(nn.BatchNorm2d(5).state_dict())
    assert norm.num_batches_tracked == 0


@everywhere
def test_one_value_per_channel(backend):
    for module in (fm.nn.BatchNormReLU2d(3), nn.BatchNorm2d(3)):
        with (
            fm.use_backend(backend),
            pytest.raises(ValueError, match="more than 1 value per channel"),
        ):
            module(images(1, 3, 1, 1))
        module.eval()(images(1, 3, 1, 1))
        with pytest.raises(ValueError, match="4D"):
            module(torch.randn(3, 4, 4))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the native extension is not built")
def test_a_call_is_served_by_one_kernel_of_each_pass(monkeypatch):
    """Also with gradients: statistics are moved once."""
    passes, run = [], dispatch.run
    monkeypatch.setattr(dispatch, "run", lambda op, p, *args: passes.append(p) or run(op, p, *args))
    fused = fm.nn.BatchNormReLU2d(3)
    fused(images(2, 3, 4, 4)).sum().backward()
    assert passes == ["forward", "update", "backward"]
    fused.eval()(images(2, 3, 4, 4))
    assert passes[3:] == ["forward"]


def test_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fm.nn.BatchNormReLU2d(3)(images(2, 3, 4, 4)).sum().backward()


X = torch.ones(2, 3, 4, 4)
ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((torch.ones(2, 3), ONES, ONES), "x must have shape (N, C, H, W), it has (2, 3)"),
        ((X, torch.ones(4), ONES), "running_mean has shape (4,); x asks for shape (3,) or None"),
        ((X, ONES, ONES, torch.ones(2)), "weight has shape (2,)"),
        ((X, ONES, ONES, ONES, torch.ones(3, 1)), "bias has shape (3, 1)"),
        ((X, ONES, None), "both, or None for both"),
        ((X, None, None), "outside of training, pass running_mean and running_var"),
        ((X[:1, :, :1, :1], None, None, None, None, True), "more than 1 value per channel"),
        (
            (X, None, None, None, None, True, 0.1, 0.0),
            "eps must be positive in training, it is 0.0",
        ),
        ((X.long(), ONES, ONES), "must be floating point"),
        ((X, ONES.double(), ONES), "x is float32, running_mean is float64; convert one"),
        ((X, ONES, ONES, ONES.bfloat16()), "x is float32, weight is bfloat16"),
        ((X, ONES, ONES, torch.ones(3, device="meta")), "weight on meta"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)
