"""The Winograd kernels of both convolution ops, called past `worth`, against the references in float64."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from support import op_checks

import fastmodel as fm
from fastmodel import env
from fastmodel.ops import dispatch
from fastmodel.ops.conv_case import ConvInputs
from fastmodel.ops.conv_relu import native_kernel as conv_kernel
from fastmodel.ops.conv_relu import reference as conv_reference
from fastmodel.ops.conv_relu_maxpool import native_kernel as pool_kernel
from fastmodel.ops.conv_relu_maxpool import reference as pool_reference

pytestmark = pytest.mark.skipif(env.native_missing() is not None, reason="no native kernels")


@dataclass(frozen=True)
class Kernels:
    """One op's Winograd kernels beside its reference."""

    kernel: object
    reference: object
    extra: tuple = field(default=())

    def forward(self, inputs):
        """What the op returns: out, or (out, argmax)."""
        return self.kernel.forward_winograd(*inputs, *self.extra)

    def expected(self, inputs):
        """The same from the reference, of the inputs in float64."""
        return self.reference.forward(*in_float64(inputs), *self.extra)

    def saved(self, result):
        """What backward keeps of it."""
        return result[-1] if isinstance(result, tuple) else result

    def out(self, result):
        return result[0] if isinstance(result, tuple) else result


OPS = {
    "conv_relu": Kernels(conv_kernel, conv_reference),
    "conv_relu_maxpool": Kernels(pool_kernel, pool_reference, ((2, 2), (2, 2), (0, 0))),
}

# Channels around the vectors and blocks of each capability (4 to 64) and the 6 rows of a register tile;
# sizes odd and even, so that tiles hang over one edge, both or none; enough tiles for several groups.
CASES = {
    "one-tile": ConvInputs((1, 1, 4, 4), 1),
    "one-pixel": ConvInputs((1, 3, 2, 2), 2, padding=(1, 1)),
    "below-vector": ConvInputs((2, 3, 9, 8), 7, padding=(1, 1)),
    "above-vector": ConvInputs((2, 17, 8, 9), 33),
    "below-block": ConvInputs((1, 63, 7, 7), 31, padding=(1, 1)),
    "block": ConvInputs((2, 64, 6, 6), 64, padding=(1, 1)),
    "above-block": ConvInputs((1, 65, 6, 7), 129, padding=(2, 0)),
    "nchw": ConvInputs((2, 20, 9, 11), 12, padding=(0, 2), is_channels_last=False),
    "no-bias": ConvInputs((3, 8, 10, 10), 8, padding=(2, 2), has_bias=False),
    "two-groups": ConvInputs((3, 6, 17, 18), 5, padding=(1, 1)),
    "many-groups": ConvInputs((2, 5, 41, 39), 20, padding=(1, 1)),
    # Sums of more than 1 MiB: threads share the output channels instead of the tiles.
    "large-sums": ConvInputs((1, 150, 6, 6), 140, padding=(1, 1)),
    "empty": ConvInputs((0, 8, 6, 6), 8),
    # Filters of several parts: 4 taps are 2 + 2, 5 are 3 + 2, 6 are 3 + 3, along either side alone or both.
    "5x5": ConvInputs((2, 33, 9, 10), 20, (5, 5), padding=(2, 2)),
    "5x5-one-pixel": ConvInputs((1, 3, 5, 5), 2, (5, 5)),
    "5x5-nchw": ConvInputs((3, 16, 13, 12), 31, (5, 5), padding=(4, 0), is_channels_last=False),
    "5x5-many-groups": ConvInputs((2, 5, 27, 29), 20, (5, 5), padding=(1, 1)),
    "5x5-large-sums": ConvInputs((1, 70, 7, 7), 72, (5, 5), padding=(2, 2)),
    "4x4": ConvInputs((2, 7, 9, 9), 9, (4, 4), padding=(1, 3)),
    "6x6": ConvInputs((2, 17, 8, 8), 5, (6, 6), padding=(5, 2)),
    "3x5": ConvInputs((2, 9, 7, 8), 18, (3, 5), padding=(1, 2)),
    "5x3": ConvInputs((2, 9, 8, 7), 18, (5, 3), padding=(2, 1)),
    "dilated": ConvInputs((2, 18, 11, 10), 7, padding=(2, 3), dilation=(2, 3)),
    "dilated-one-side": ConvInputs((1, 5, 12, 6), 33, padding=(3, 0), dilation=(3, 1)),
    "dilated-wide": ConvInputs((1, 4, 21, 20), 6, padding=(9, 8), dilation=(9, 4)),
    "dilated-5x5": ConvInputs((2, 9, 15, 17), 8, (5, 5), padding=(4, 5), dilation=(2, 2)),
    "4x6": ConvInputs((1, 6, 8, 9), 6, (4, 6), padding=(2, 3)),
}


def in_float64(values):
    return tuple(v.double() if isinstance(v, torch.Tensor) else v for v in values)


def gradients(kernels, inputs, result, wanted=(True, True, True)):
    """Of the op's kernel and of its reference in float64, for the same saved tensors."""
    x, weight, _, *geometry = inputs
    grad = op_checks.gradient_like(kernels.out(result), "winograd")
    saved = kernels.saved(result)
    rest = (*geometry, *kernels.extra, list(wanted))
    found = kernels.kernel.backward_winograd(grad, x, weight, saved, *rest)
    grad, x, weight = in_float64((grad, x, weight))
    saved = saved.double() if saved.is_floating_point() else saved
    return found, kernels.reference.backward(grad, x, weight, saved, *rest)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("op", OPS)
def test_equals_the_reference(op, case, dtype, threads, monkeypatch):
    kernels, drawn = OPS[op], CASES[case]
    if op == "conv_relu_maxpool" and (min(drawn.out) < 2 or drawn.dilation != (1, 1)):
        pytest.skip("no window fits, or a tile is none")
    inputs = drawn.make(dtype)
    monkeypatch.setattr(kernels.kernel, "threads", lambda: threads)
    result = kernels.forward(inputs)
    expected = kernels.expected(inputs)
    out = kernels.out(result)
    op_checks.assert_close(out, kernels.out(expected), dtype, drawn.depth, "output")
    found, wanted = gradients(kernels, inputs, result)
    for name, a, b in zip(("x", "weight", "bias"), found, wanted, strict=True):
        assert a.dtype == dtype
        op_checks.assert_close(a, b, dtype, drawn.depth, f"gradient of {name}")
    assert found[0].stride() == torch.empty_like(inputs[0]).stride()


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("op", OPS)
def test_error_is_no_larger_than_twice_pytorchs(op, side):
    """Root mean square over a layer of 64 channels, forward and every gradient."""
    kernels = OPS[op]
    drawn = ConvInputs((4, 64, 28, 28), 64, (side, side), padding=(side // 2,) * 2)
    inputs = drawn.make(torch.float32)
    result, expected = kernels.forward(inputs), kernels.expected(inputs)
    plain = kernels.reference.forward(*inputs, *kernels.extra)
    found, wanted = gradients(kernels, inputs, result)
    x, weight, _, *geometry = inputs
    grad = op_checks.gradient_like(kernels.out(result), "winograd")
    rest = (*geometry, *kernels.extra, [True] * 3)
    theirs = kernels.reference.backward(grad, x, weight, kernels.saved(result), *rest)

    def error(value, exact):
        return (value.double() - exact).square().mean().sqrt().item()

    pairs = zip(
        (kernels.out(result), *found),
        (kernels.out(plain), *theirs),
        (kernels.out(expected), *wanted),
        strict=True,
    )
    for ours, others, exact in pairs:
        assert error(ours, exact) <= 2 * error(others, exact)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 3e38])
@pytest.mark.parametrize("op", OPS)
def test_nan_infinity_and_overflow(op, value, side):
    """One such pixel spoils what the direct sum would have spoiled, not its whole tile."""
    kernels = OPS[op]
    inputs = ConvInputs((2, 4, 10, 10), 6, (side, side), padding=(1, 1)).make(torch.float32)
    inputs[0][0, 1, 4, 5] = value
    result = kernels.forward(inputs)
    plain = kernels.reference.forward(*inputs, *kernels.extra)
    torch.testing.assert_close(
        kernels.out(result), kernels.out(plain), equal_nan=True, rtol=1e-5, atol=1e-5
    )
    # The gradient of x does not read x, that of the weight reads it where it is multiplied by a gradient.
    x, weight, _, *geometry = inputs
    grad = op_checks.gradient_like(kernels.out(result), "winograd")
    rest = (*geometry, *kernels.extra, [True] * 3)
    found = kernels.kernel.backward_winograd(grad, x, weight, kernels.saved(result), *rest)
    direct = kernels.kernel.backward_cpu(grad, x, weight, kernels.saved(result), *rest)
    assert found[0].isfinite().all()
    torch.testing.assert_close(found[1], direct[1], equal_nan=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", OPS)
def test_infinite_gradient(op):
    kernels = OPS[op]
    inputs = ConvInputs((1, 4, 8, 8), 6, padding=(1, 1)).make(torch.float32)
    result = kernels.forward(inputs)
    x, weight, _, *geometry = inputs
    rest = (*geometry, *kernels.extra, [True] * 3)
    grad = torch.ones_like(kernels.out(result))
    live = kernels.out(result).flatten().argmax()
    index = torch.unravel_index(live, grad.shape)
    grad[index] = math.inf
    found = kernels.kernel.backward_winograd(grad, x, weight, kernels.saved(result), *rest)
    direct = kernels.kernel.backward_cpu(grad, x, weight, kernels.saved(result), *rest)
    for a, b in zip(found, direct, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, rtol=1e-5, atol=1e-5)


def test_ties_go_to_the_first_pixel():
    """Small integers are exact in the transforms, so equal outputs are equal bit by bit."""
    x = torch.randint(-2, 3, (2, 8, 12, 12), generator=torch.Generator().manual_seed(1)).float()
    weight = torch.randint(-1, 2, (10, 8, 3, 3), generator=torch.Generator().manual_seed(2)).float()
    kernels = OPS["conv_relu_maxpool"]
    inputs = (x, weight, torch.zeros(10), (1, 1), (1, 1), (1, 1), 1)
    out, argmax = kernels.forward(inputs)
    expected, position = kernels.reference.forward(*inputs, *kernels.extra)
    assert torch.equal(out, expected)
    assert torch.equal(argmax, position)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize("op", OPS)
def test_only_the_gradients_wanted(op, wanted):
    kernels = OPS[op]
    inputs = CASES["above-vector"].make(torch.float32)
    result = kernels.forward(inputs)
    everything, _ = gradients(kernels, inputs, result)
    found, _ = gradients(kernels, inputs, result, wanted)
    for a, b, want in zip(found, everything, wanted, strict=True):
        assert torch.equal(a, b) if want else a.numel() == 0


@pytest.mark.parametrize("op", OPS)
def test_serves_wide_layers(op):
    """Automatic choice takes it for forward and backward; other geometries go elsewhere."""
    kernels = OPS[op]
    inputs = ConvInputs((8, 64, 28, 28), 64, padding=(1, 1)).make(torch.float32)
    chosen = dispatch.choose(op, "forward", *inputs, *kernels.extra)
    assert chosen is kernels.kernel.forward_winograd
    result = kernels.forward(inputs)
    x, weight, _, *geometry = inputs
    saved = (kernels.out(result), x, weight, kernels.saved(result))
    rest = (*kernels.extra, [True] * 3)
    chosen = dispatch.choose(op, "backward", *saved, *geometry, *rest)
    assert chosen is kernels.kernel.backward_winograd
    for other in ({"stride": (2, 1)}, {"kernel": (3, 7)}, {"groups": 2}, {"padding": (3, 0)}):
        inputs = ConvInputs((8, 64, 28, 28), 64, **other).make(torch.float32)
        assert kernels.kernel.winograd_condition(*inputs, *kernels.extra) is not None
    dilated = ConvInputs((8, 64, 28, 28), 64, dilation=(1, 2)).make(torch.float32)
    is_taken = kernels.kernel.winograd_condition(*dilated, *kernels.extra) is None
    assert is_taken == (op == "conv_relu")


@pytest.mark.parametrize(
    "pool", [((3, 3), (2, 2), (0, 0)), ((2, 2), (1, 1), (0, 0)), ((2, 2), (2, 2), (1, 1))]
)
def test_other_windows_go_elsewhere(pool):
    inputs = ConvInputs((8, 64, 28, 28), 64, padding=(1, 1)).make(torch.float32)
    assert "windows" in pool_kernel.winograd_condition(*inputs, *pool)


def test_a_backend_asked_for_by_name_chooses_its_fastest_row():
    inputs = ConvInputs((8, 64, 28, 28), 64, padding=(1, 1)).make(torch.float32)
    few = ConvInputs((2, 4, 9, 9), 5).make(torch.float32)
    with fm.use_backend("cpu"):
        assert dispatch.choose("conv_relu", "forward", *inputs) is conv_kernel.forward_winograd
        assert dispatch.choose("conv_relu", "forward", *few) is conv_kernel.forward_cpu
