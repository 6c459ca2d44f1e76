"""What every op that is a linear layer and an activation is held to, in test_linear_<name>.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmodel as fm
from fastmodel.ops.case import Case
from fastmodel.ops.linear_case import linear_cases
from support import op_checks
from support.op_checks import OpUnderTest

CASES = linear_cases()
BACKENDS = [*op_checks.backends("linear_sigmoid"), None]
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


@dataclasses.dataclass(frozen=True)
class Activation:
    """One of the ops."""

    name: str
    module: type[nn.Linear]
    plain: Callable
    """The activation from torch's own functions."""
    value: Callable[[np.ndarray], np.ndarray]
    """The activation in float64, to the last digits."""
    derivative: Callable[[np.ndarray], np.ndarray]
    """Of what backward reads."""
    value_ulp: float
    """Bound of the native kernels' error."""
    keeps_pre: bool = False
    """Backward reads what the activation was applied to, not its output."""
    cases: tuple[Case, ...] = CASES

    @property
    def op(self) -> OpUnderTest:
        """As op_checks take it."""
        face = getattr(fm.functional, self.name)
        return OpUnderTest(self.name, face, self.composed, self.cases)

    def composed(self, x, weight, bias):
        return self.plain(F.linear(x, weight, bias))

    def check_special_values(self, args: tuple, backend: str | None) -> None:
        """Output and gradients have NaN and infinity where PyTorch's float64 functions have them."""
        if backend == "reference" and self.name == "linear_gelu":
            pytest.skip("PyTorch's float32 GELU of infinity is NaN, its float64 one infinity")
        with fm.use_backend(backend):
            found = op_checks.run_with_gradients(self.op.face, self.op.leaves(args), self.name)
        wide = self.op.leaves(args, torch.float64)
        expected = op_checks.run_with_gradients(self.composed, wide, self.name)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5, equal_nan=True)

    def run(self, *args) -> tuple[torch.Tensor, torch.Tensor]:
        """out, and what backward reads."""
        op = getattr(torch.ops.fastmodel, self.name)
        if self.keeps_pre:
            return op(*args, True)
        out = op(*args)
        return out, out

    def run_backward(self, *args) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of x, weight and bias."""
        return getattr(torch.ops.fastmodel, f"{self.name}_backward")(*args, [True, True, True])


def arguments_for_backward(x, weight, saved, dtype, name):
    return op_checks.gradient_like(saved, name).to(dtype), x, weight, saved


def every_float32() -> np.ndarray:
    """Finite values of every magnitude, and dense ones where activations bend."""
    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**32, 1 << 16, dtype=np.uint64).astype(np.uint32)
    ranges = [(-20, 20, 1 << 16), (-1, 1, 1 << 16), (-110, -80, 1 << 13)]
    dense = [np.linspace(*each).astype(np.float32) for each in ranges]
    values = np.concatenate([bits.view(np.float32), *dense, np.float32([0.0, 3e38, -3e38])])
    return values[np.isfinite(values)]


def ulp(values: np.ndarray) -> np.ndarray:
    """The distance of neighbours in float32, around float64 values."""
    return np.spacing(np.abs(values.astype(np.float32))).astype(np.float64)


class LinearActivationTests:
    """The tests; a subclass names its `activation`."""

    activation: Activation

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @everywhere
    @pytest.mark.parametrize("case", OpUnderTest("", None, None, CASES).test_cases, ids=str)
    def test_forward_and_gradients(self, case, backend, dtype):
        op_checks.check_against_float64(self.activation.op, case, backend, dtype)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @everywhere
    @pytest.mark.parametrize("case", OpUnderTest("", None, None, CASES).test_cases, ids=str)
    def test_forward_and_gradients_in_half_precision(self, case, backend, dtype):
        """Backward from what forward saved, which is rounded.

        Forward may round pre before the activation: that is half an eps of pre, which the activation passes
        on by its slope, at most 1.13 (GELU), on top of the result's own rounding.
        """
        act = self.activation
        if backend is not None and not op_checks.serves(act.name, backend, dtype):
            pytest.skip(f"{backend} has no {dtype} kernel of {act.name}")
        x, weight, bias = case.make(dtype)
        with fm.use_backend(backend):
            out, saved = act.run(x, weight, bias)
            grad = op_checks.gradient_like(out, case.name)
            found = act.run_backward(grad, x, weight, saved)
        wide = [None if a is None else a.double() for a in (x, weight, bias)]
        pre, expected = F.linear(*wide), act.composed(*wide)
        half_eps = torch.finfo(dtype).eps / 2
        allowed = half_eps * (1.13 * pre.abs() + 2 * expected.abs()) + 1e-5
        assert out.dtype == dtype and ((out.double() - expected).abs() <= allowed).all()
        if act.keeps_pre:
            op_checks.assert_close(saved, pre, dtype, case.depth, "pre")
        slope = torch.from_numpy(np.asarray(act.derivative(saved.double().numpy())))
        chained = (grad.double() * slope).reshape(-1, weight.shape[0])
        flat = wide[0].reshape(len(chained), weight.shape[1])
        # What the chain leaves may be rounded before the products sum it: half an eps of each term.
        for a, b, size in (
            (found[0].reshape(flat.shape), chained @ wide[1], chained.abs() @ wide[1].abs()),
            (found[1], chained.T @ flat, chained.abs().T @ flat.abs()),
            (found[2], chained.sum(0), chained.abs().sum(0)),
        ):
            assert a.dtype == dtype and a.shape == b.shape
            assert ((a.double() - b).abs() <= 2 * half_eps * (size + b.abs()) + 1e-5).all()

    @everywhere
    def test_any_strides(self, backend):
        args = (torch.randn(12, 10)[::2, 1:8], torch.randn(7, 7).t(), torch.randn(14)[::2])
        op_checks.check_any_strides(self.activation.op, args, backend, depth=12)

    @everywhere
    def test_nan_and_infinity(self, backend):
        x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
        weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
        self.activation.check_special_values((x, weight, None), backend)

    @everywhere
    def test_the_ends_of_the_range(self, backend):
        """Infinities and NaN reach the activation itself, in whole vectors and in a rest."""
        ends = torch.tensor([math.inf, -math.inf, math.nan, 0.0, 200.0, -200.0, 1e38, -1e38])
        for count in (8, 19, 40):
            bias = ends.repeat(5)[:count].clone()
            args = (torch.zeros(2, 3), torch.zeros(count, 3), bias)
            self.activation.check_special_values(args, backend)

    @everywhere
    def test_the_activation_is_accurate_everywhere(self, backend):
        """Against float64, in ulp; a result below the normal range is a product with a rounded factor."""
        if backend == "reference":
            pytest.skip("PyTorch's own functions are not ours to bound")
        z = every_float32()
        with fm.use_backend(backend), torch.no_grad():
            out = self.activation.op.face(torch.ones(1, 1), torch.from_numpy(z).unsqueeze(1))
        wide = z.astype(np.float64)
        exact = self.activation.value(wide)
        subnormal = np.where(
            np.abs(exact) < 2.0**-120, 2.0**-149 * np.minimum(np.abs(wide), 110), 0
        )
        error = np.abs(out[0].double().numpy() - exact)
        assert (error <= self.activation.value_ulp * ulp(exact) + subnormal).all()

    @pytest.mark.parametrize("backend", ["cpu", "library"])
    def test_the_derivative_is_accurate_everywhere(self, backend):
        """Against float64: 4 ulp of 1, a half for each of the roundings of a sum whose terms are near 1."""
        if backend not in BACKENDS:
            pytest.skip(f"{backend} is not available")
        saved = every_float32()
        if not self.activation.keeps_pre:
            saved = saved[np.abs(saved) <= 1]
        shape = (1, len(saved))
        with fm.use_backend(backend):
            grad = self.activation.run_backward(
                torch.ones(shape),
                torch.ones(1, 1),
                torch.ones(len(saved), 1),
                torch.from_numpy(saved).reshape(shape),
            )[2]
        exact = self.activation.derivative(saved.astype(np.float64))
        assert np.abs(grad.double().numpy() - exact).max() <= 4 * 2.0**-23

    @pytest.mark.parametrize("rows", [255, 256, 257, 513])
    def test_rows_around_the_blocks(self, rows):
        x, weight, bias = torch.randn(rows, 5), torch.randn(19, 5), torch.randn(19)
        with fm.use_backend(BACKENDS[0]):
            out, saved = self.activation.run(x, weight, bias)
        pre = F.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(out.double(), self.activation.plain(pre), rtol=1e-5, atol=1e-5)
        if self.activation.keeps_pre:
            torch.testing.assert_close(saved.double(), pre, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("threads", [1, 2, 3])
    @everywhere
    def test_thread_counts(self, backend, threads):
        op_checks.check_thread_counts(self.activation.op, CASES[5], backend, threads)

    def test_only_the_gradients_wanted(self):
        op_checks.check_only_the_gradients_wanted(self.activation.op, CASES[5].make(torch.float32))

    def test_derivatives(self):
        generator = torch.Generator().manual_seed(0)
        shapes = ((2, 3), (4, 3), (4,))
        args = tuple(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
        op_checks.check_derivatives(self.activation.op, args)

    @everywhere
    def test_second_derivative_of_float32(self, backend):
        op_checks.check_mixed_second_derivative(
            self.activation.op, CASES[3].make(torch.float32), backend
        )

    @pytest.mark.parametrize("case", [CASES[3], CASES[1]], ids=str)
    def test_registration(self, case):
        def backward_args(args, outs):
            saved = outs[-1]
            return (torch.randn_like(saved), args[0], args[1], saved, [True, True, True])

        args = case.make(torch.float32)
        if self.activation.keeps_pre:
            args = (*args, True)
        op_checks.check_registration(self.activation.op, args, backward_args)

    def test_nothing_is_kept_where_no_gradient_is_wanted(self):
        if not self.activation.keeps_pre:
            pytest.skip("it keeps its output alone")
        args = CASES[3].make(torch.float32)
        op = getattr(torch.ops.fastmodel, self.activation.name)
        for backend in BACKENDS:
            with fm.use_backend(backend):
                kept, (out, pre) = op(*args, True), op(*args, False)
            assert pre.numel() == 0 and torch.equal(out, kept[0])

    def test_compiles_as_one_graph(self):
        op_checks.check_compiles(self.activation.module(20, 7), torch.randn(4, 20))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        args = (torch.rand(4, 20), torch.rand(7, 20) / 20, torch.rand(7))
        op_checks.check_autocast(self.activation.op, args, dtype, depth=20)

    def test_flops_are_counted(self):
        module = self.activation.module(20, 7)
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
            module(torch.randn(4, 20)).sum().backward()
        assert counter.get_total_flops() == 2 * 4 * 20 * 7 * 2  # x wants no gradient

    def test_module_is_a_linear(self, tmp_path):
        module, plain = self.activation.module, self.activation.plain
        linear = nn.Linear(20, 7).eval()
        fused = module.from_torch(linear)
        assert isinstance(fused, nn.Linear)
        assert fused.weight is linear.weight and fused.bias is linear.bias and not fused.training
        assert "in_features=20, out_features=7, bias=True" in repr(fused)
        x = torch.randn(3, 20)
        op_checks.check_module_twins(fused, lambda x: plain(linear(x)), x, tmp_path)
        assert module.from_torch(nn.Linear(3, 2, bias=False)).bias is None
        nn.Linear(20, 7).load_state_dict(fused.state_dict())

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            (
                (torch.ones(2, 3), torch.ones(4, 5), None),
                "expects 5 input features, x has shape (2, 3)",
            ),
            ((torch.ones(2, 3), torch.ones(3), None), "weight must have shape"),
            ((torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), "asks for shape (4,) or None"),
            (
                (torch.ones(2, 3), torch.ones(4, 3).double(), None),
                "x is float32, weight is float64",
            ),
        ],
    )
    def test_bad_input(self, args, words):
        op_checks.check_bad_input(self.activation.op, args, words)
