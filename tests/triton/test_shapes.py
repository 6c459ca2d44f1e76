"""Shapes that nobody thought of, in Triton's interpreter, against the definition in float64."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import op_checks
from support.op_checks import OpUnderTest

import fastmodel as fm
from fastmodel.ops import conv

# Around the blocks of rows, of outputs and of depth, and anything else that is small.
SIZES = st.sampled_from([15, 16, 17, 31, 32, 33, 63, 64, 65]) | st.integers(1, 40)
SMALL = st.integers(1, 3)
PAIRS = st.tuples(SMALL, SMALL)
FEW = settings(max_examples=12, deadline=None, derandomize=True)


def check(name: str, args: tuple, depth: int, constants: tuple[int, ...] = ()) -> None:
    face = getattr(fm.functional, name)
    op = OpUnderTest(name, face, face, (), constants)
    with fm.use_backend("triton"):
        found = op_checks.run_with_gradients(face, op.leaves(args), name)
    with fm.use_backend("reference"):
        expected = op_checks.run_with_gradients(face, op.leaves(args, torch.float64), name)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        op_checks.assert_close(a, b, torch.float32, depth, name)


@FEW
@given(st.lists(st.integers(0, 5), max_size=2), SIZES, SIZES, SIZES, st.booleans())
def test_linear(lead, rows, ins, outs, has_bias):
    x, weight = torch.randn(*lead, rows, ins), torch.randn(outs, ins) / ins**0.5
    bias = torch.randn(outs) if has_bias else None
    for name in ("linear_relu", "linear_gelu"):
        check(name, (x, weight, bias), depth=max(ins, x.numel() // ins))


@FEW
@given(
    st.lists(st.integers(1, 9), max_size=2),
    st.integers(1, 70) | st.sampled_from([4095, 4096, 4097]),
    st.sampled_from(["none", "mean", "sum"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.booleans(),
    st.booleans(),
)
def test_cross_entropy(shape, classes, reduction, smoothing, is_probability, has_weight):
    x = torch.randn(*shape[:1], classes, *shape[1:])
    if is_probability:
        target = torch.randn_like(x).softmax(1 if shape else 0)
    else:
        target = torch.randint(classes, shape)
        target[torch.rand(shape) < 0.2] = -100
    weight = torch.rand(classes) + 0.5 if has_weight else None
    args = (x, target, weight, None, -100, None, reduction, smoothing)
    check("cross_entropy", args, depth=max(x.numel() // classes, classes), constants=(2,))


@FEW
@given(st.lists(st.integers(0, 40), max_size=3), st.sampled_from(["none", "mean", "sum"]))
def test_mse_loss(shape, reduction):
    x, target = torch.randn(shape), torch.randn(shape)
    check("mse_loss", (x, target, None, None, reduction), depth=x.numel())


@FEW
@given(
    st.tuples(st.integers(0, 3), SIZES, st.integers(1, 9), st.integers(1, 9)),
    SIZES, PAIRS, PAIRS, st.tuples(st.integers(0, 2), st.integers(0, 2)), PAIRS,
    st.sampled_from([1, 1, 2]), PAIRS, PAIRS,
)  # fmt: skip
def test_convolutions(size, filters, kernel, stride, padding, dilation, groups, pool, step):
    n, c, h, w = size
    out = [
        conv.output_size(s, k, st_, p, d)
        for s, k, st_, p, d in zip((h, w), kernel, stride, padding, dilation, strict=True)
    ]
    if min(out) < 1:
        return
    x = torch.randn(n, c * groups, h, w)
    depth = c * kernel[0] * kernel[1]
    weight = torch.randn(filters * groups, c, *kernel) / depth**0.5
    args = (x, weight, torch.randn(filters * groups), stride, padding, dilation, groups)
    depth = max(depth, n * out[0] * out[1], filters * kernel[0] * kernel[1])
    check("conv_relu", args, depth)
    if out[0] >= pool[0] and out[1] >= pool[1]:
        check("conv_relu_maxpool", (*args, pool, step), depth)
