"""What every gated linear unit is held to, in test_<name>.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.ops.case import Case
from fastmodel.ops.gated_case import gated_cases
from support import op_checks
from support.linear_activation import every_float32, ulp
from support.op_checks import OpUnderTest

CASES = gated_cases(flops=1)
BACKENDS = [*op_checks.backends("swiglu"), None]
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)
OUTER_SPECIAL = torch.tensor(
    [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 200.0, -200.0, 1e38, -1e38]
)


@dataclasses.dataclass(frozen=True)
class Unit:
    """One of the ops."""

    name: str
    module: type[nn.Module]
    plain: Callable
    """The activation from torch's own functions."""
    value: Callable[[np.ndarray], np.ndarray]
    """The activation in float64, to the last digits."""
    derivative: Callable[[np.ndarray], np.ndarray]
    value_ulp: Callable[[np.ndarray], np.ndarray | float]
    """Bound of the native kernels' error, at z."""
    cases: tuple[Case, ...] = CASES

    @property
    def op(self) -> OpUnderTest:
        """As op_checks take it."""
        face = getattr(fm.functional, self.name)
        return OpUnderTest(self.name, face, self.composed, self.cases)

    def composed(self, gate, up):
        return self.plain(gate) * up


class GatedLinearUnitTests:
    """The tests; a subclass names its `unit`."""

    unit: Unit

    @pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
    @everywhere
    @pytest.mark.parametrize("case", OpUnderTest("", None, None, CASES).test_cases, ids=str)
    def test_forward_and_gradients(self, case, backend, dtype):
        op_checks.check_against_float64(self.unit.op, case, backend, dtype)

    @everywhere
    def test_any_strides(self, backend):
        packed = torch.randn(6, 3, 14)
        for args in (
            (torch.randn(3, 4, 7), torch.randn(3, 4, 7)),
            (torch.randn(7, 4).t(), torch.randn(4, 7)),
            (packed[::2, :, :7], packed[1::2, :, 7:]),
            (packed[..., ::2], packed[..., 1::2]),
            (torch.randn(1, 7).expand(4, 7), torch.randn(4, 1, 7)[:, 0]),
        ):
            op_checks.check_any_strides(self.unit.op, args, backend, depth=16)

    @everywhere
    def test_special_values(self, backend):
        """NaN and infinity where PyTorch's float64 functions have them, in whole vectors and in a rest."""
        if backend in ("reference", None) and self.unit.name != "swiglu":
            pytest.skip("PyTorch's float32 GELU of infinity is NaN, its float64 one infinity")
        for count in (9, 21, 40):
            gate = OUTER_SPECIAL.repeat(5)[:count].clone()
            for up in (torch.ones(count), torch.zeros(count), torch.full((count,), torch.nan)):
                with fm.use_backend(backend):
                    found = op_checks._with_ones(self.unit.op.face, self.unit.op.leaves((gate, up)))
                wide = self.unit.op.leaves((gate, up), torch.float64)
                expected = op_checks._with_ones(self.unit.composed, wide)
                for a, b in zip(found, expected, strict=True):
                    torch.testing.assert_close(a, b.float(), equal_nan=True)

    @everywhere
    def test_the_activation_is_accurate_everywhere(self, backend):
        """Against float64, in ulp; a result below the normal range is a product with a rounded factor."""
        if backend in ("reference", None):
            pytest.skip("PyTorch's own functions are not ours to bound")
        z = every_float32()
        gate = torch.from_numpy(z).requires_grad_()
        with fm.use_backend(backend):
            out = self.unit.op.face(gate, torch.ones_like(gate))
            (slope,) = torch.autograd.grad(out, gate, torch.ones_like(out))
        wide = z.astype(np.float64)
        exact = self.unit.value(wide)
        subnormal = np.where(
            np.abs(exact) < 2.0**-120, 2.0**-149 * np.minimum(np.abs(wide), 110), 0
        )
        error = np.abs(out.detach().numpy().astype(np.float64) - exact)
        assert (error <= self.unit.value_ulp(wide) * ulp(exact) + subnormal).all()
        # Of order 1 where it bends, and its terms cancel once: 16 eps.
        expected = self.unit.derivative(wide)
        assert (
            np.abs(slope.numpy() - expected) <= 16 * 2.0**-24 * np.maximum(1, np.abs(expected))
        ).all()

    @everywhere
    def test_threads(self, backend):
        (case,) = (case for case in CASES if case.name == "two-threads")
        for threads in (1, 2, 3):
            op_checks.check_thread_counts(self.unit.op, case, backend, threads)

    @everywhere
    def test_second_derivative_of_float32(self, backend):
        args = torch.randn(3, 5), torch.randn(3, 5)
        op_checks.check_mixed_second_derivative(self.unit.op, args, backend)

    def test_derivatives(self):
        args = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
        op_checks.check_derivatives(self.unit.op, args)

    def test_only_the_gradients_wanted(self):
        op_checks.check_only_the_gradients_wanted(
            self.unit.op, (torch.randn(3, 5), torch.randn(3, 5))
        )

    def test_registration(self):
        def backward_args(args, outs):
            return torch.randn_like(outs[0]), *args, [True, True]

        for args in (
            (torch.randn(3, 5), torch.randn(3, 5)),
            torch.randn(3, 10).chunk(2, -1),
            (torch.randn(5, 3).t(), torch.randn(5, 3).t()),
        ):
            op_checks.check_registration(self.unit.op, tuple(args), backward_args)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        op_checks.check_autocast(
            self.unit.op, (torch.randn(3, 5), torch.randn(3, 5)), dtype, depth=16
        )

    def test_dtypes_promote_as_pytorchs_product(self):
        for low in (torch.bfloat16, torch.float16, torch.float64):
            gate, up = torch.randn(3, 5).to(low), torch.randn(3, 5)
            found, expected = self.unit.op.face(gate, up), self.unit.composed(gate, up)
            assert found.dtype == expected.dtype
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)

    def test_bad_input(self):
        x = torch.ones(3, 5)
        for args, words in (
            ((x, torch.ones(5)), "gate has shape (3, 5), up has (5,)"),
            ((x, x.to("meta")), "up on meta"),
            ((x.int(), x.int()), "gate must be floating point, it is int32"),
        ):
            op_checks.check_bad_input(self.unit.op, args, words)

    def test_module_is_a_block_of_three_layers(self, tmp_path):
        for has_bias in (False, True):
            block = self.unit.module(6, 10, 4, bias=has_bias)
            x = torch.randn(3, 6)

            def plain(x, block=block):
                return block.down_proj(self.unit.plain(block.gate_proj(x)) * block.up_proj(x))

            assert block(x).shape == (3, 4)
            op_checks.check_module_twins(block, plain, x, tmp_path)
            op_checks.check_compiles(block, x)
        assert self.unit.module(6, 10).down_proj.out_features == 6

    def test_module_from_layers(self):
        source = nn.Module()
        source.gate_proj, source.up_proj = nn.Linear(5, 7), nn.Linear(5, 7)
        source.down_proj = nn.Linear(7, 5)
        source.eval()
        block = self.unit.module.from_torch(source)
        assert not block.training and block.up_proj is source.up_proj
        assert set(block.state_dict()) == set(source.state_dict())
        x = torch.randn(2, 5)
        hidden = self.unit.plain(source.gate_proj(x)) * source.up_proj(x)
        torch.testing.assert_close(block(x), source.down_proj(hidden))
