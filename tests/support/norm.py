"""What every norm is held to, in test_<norm>.py."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastmodel as fm
from fastmodel.ops.norm_case import norm_cases
from support import op_checks
from support.op_checks import OpUnderTest

NAMES = [case.name for case in norm_cases(1, has_residual=False) if not case.is_bench]
BACKENDS = [*op_checks.backends("layer_norm"), None]
by_name = pytest.mark.parametrize("backend", BACKENDS[:-1])
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)
far_from_zero = pytest.mark.parametrize(
    ("offset", "deviation"), [(2.0**13 + 100, 1.0), (2.0**16 + 100, 2.0**-5)], ids=str
)

# What PyTorch's rms_norm says of the dtypes that mixed precision brings.
MIXED = "ignore:Mismatch dtype between input and weight:UserWarning"


@dataclasses.dataclass(frozen=True)
class Norm:
    """One of the ops."""

    name: str
    module: type[nn.Module]
    twin: type[nn.Module]
    """PyTorch's module of the same parameters."""
    parameters: int
    has_residual: bool

    @property
    def is_centred(self) -> bool:
        return self.twin is nn.LayerNorm

    @property
    def op(self) -> OpUnderTest:
        """As op_checks take it: where there are two results, both in one tensor."""
        face = getattr(fm.functional, self.name)
        cases = norm_cases(self.parameters, has_residual=self.has_residual)
        if not self.has_residual:
            return OpUnderTest(self.name, face, self.plain, cases)
        return OpUnderTest(
            self.name,
            lambda *args: torch.stack(face(*args)),
            lambda *args: torch.stack(self.plain(*args)),
            cases,
        )

    def plain(self, *args):
        """The same from torch's own functions."""
        call = F.layer_norm if self.is_centred else F.rms_norm
        if not self.has_residual:
            return call(*args)
        total = args[0] + args[1]
        return call(total, *args[2:]), total

    def args(self, *lead: int, shape: tuple[int, ...]) -> tuple:
        """Random arguments, in float32."""
        leads = [torch.randn(*lead, *shape) for _ in range(1 + self.has_residual)]
        return *leads, shape, *[torch.randn(shape) for _ in range(self.parameters)]

    def case(self, name: str):
        return next(case for case in self.op.cases if case.name == name)


NORMS = {
    norm.name: norm
    for norm in (
        Norm("layer_norm", fm.nn.LayerNorm, nn.LayerNorm, parameters=2, has_residual=False),
        Norm("add_layer_norm", fm.nn.AddLayerNorm, nn.LayerNorm, parameters=2, has_residual=True),
        Norm("rms_norm", fm.nn.RMSNorm, nn.RMSNorm, parameters=1, has_residual=False),
        Norm("add_rms_norm", fm.nn.AddRMSNorm, nn.RMSNorm, parameters=1, has_residual=True),
    )
}


def skip_unless_served(norm: Norm, dtype: torch.dtype, backend: str | None) -> None:
    if backend is not None and not op_checks.serves(norm.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {norm.name}")


def check_mixed_dtypes(norm: Norm, dtype: torch.dtype, backend: str | None) -> None:
    """What mixed precision has: parameters and their gradients in float32, the rest narrow."""
    skip_unless_served(norm, dtype, backend)
    case, leads = norm.case("edges-above"), 1 + norm.has_residual
    args = norm.op.leaves((*case.make(dtype)[:leads], *case.make(torch.float32)[leads:]))
    dtypes = [dtype] * (1 + leads) + [torch.float32] * norm.parameters
    _check_dtypes(norm, args, dtypes, backend)


def check_promotion(norm: Norm, narrow: int, backend: str | None) -> None:
    """A narrow input beside a float32 residual, or the other way round."""
    args = list(norm.args(5, shape=(33,)))
    args[narrow] = args[narrow].bfloat16()
    leaves = norm.op.leaves(tuple(args))
    with fm.use_backend(backend):
        results = getattr(fm.functional, norm.name)(*args)
    assert [result.dtype for result in results] == [torch.float32] * 2
    dtypes = [torch.float32, *(leaf.dtype for leaf in op_checks.tensors(leaves))]
    _check_dtypes(norm, leaves, dtypes, backend)


def _check_dtypes(norm: Norm, args: tuple, dtypes: list, backend: str | None) -> None:
    """Output and gradients are of these dtypes, rounded once from float64's."""
    with fm.use_backend(backend):
        found = op_checks.run_with_gradients(norm.op.face, args, "dtypes")
    wide = norm.op.leaves(args, torch.float64)
    expected = op_checks.run_with_gradients(norm.op.plain, wide, "dtypes")
    for a, b, dtype in zip(found, expected, dtypes, strict=True):
        assert a.dtype == dtype
        op_checks.assert_close(a, b, dtype, 33, "dtypes")


def check_far_from_zero(norm: Norm, offset: float, deviation: float, backend: str | None) -> None:
    """Sums of squares would lose the deviation: at 2^13 their last digit is 4, the variance 1.

    A mean in float32 would be off by 2^-11 there; distances from it are exact, and so is their own mean. At
    2^16 it is off by up to 2^-8: its square is 2^-6 of a variance of 2^-10.
    """
    if not norm.is_centred:
        pytest.skip("it has no mean")
    args = norm.args(8, shape=(257,))
    for lead in args[: 1 + norm.has_residual]:
        lead.mul_(deviation)
    args[0].add_(offset)
    with fm.use_backend(backend):
        found = norm.op.face(*args)
    wide = [a.double() if isinstance(a, Tensor) else a for a in args]
    if norm.has_residual:  # the sum is rounded, as PyTorch's is
        wide[:2] = [(args[0] + args[1]).double(), torch.zeros(8, 257).double()]
    expected = norm.op.plain(*wide)
    op_checks.assert_close(found, expected, torch.float32, 257, "far from zero")

    # What is left for backward is the mean rounded once, give or take what rounds in finding it.
    leads, shape, *parameters = _parts(norm, tuple(args))
    with fm.use_backend(backend):
        stats = getattr(torch.ops.fastmodel, norm.name)(*leads, *parameters, len(shape), 1e-5)[-1]
    means = sum(wide[: 1 + norm.has_residual]).mean(-1)
    digit = torch.finfo(torch.float32).eps * 2.0 ** math.floor(math.log2(offset))
    assert ((stats[0].double() - means).abs() <= 0.55 * digit).all()


def check_the_sum_is_normalised(norm: Norm, dtype: torch.dtype, backend: str | None) -> None:
    """The sum is rounded to its dtype first, as PyTorch's: backward, which reads it, fits forward."""
    skip_unless_served(norm, dtype, backend)
    x, residual, shape, *parameters = norm.args(5, shape=(300,))
    x, residual = x.to(dtype), residual.to(dtype)
    alone = fm.functional.layer_norm if norm.is_centred else fm.functional.rms_norm
    with fm.use_backend(backend):
        out, total = getattr(fm.functional, norm.name)(x, residual, shape, *parameters)
        assert torch.equal(total, x + residual)
        assert torch.equal(out, alone(total, shape, *parameters))


class NormTests:
    """The tests of one norm, the attribute `norm` of a subclass."""

    norm: Norm

    @pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
    @everywhere
    @pytest.mark.parametrize("name", NAMES)
    def test_forward_and_gradients(self, name, backend, dtype):
        op_checks.check_against_float64(self.norm.op, self.norm.case(name), backend, dtype)

    @everywhere
    @pytest.mark.parametrize(("lead", "shape"), [((6,), (7,)), ((2, 3), (20,)), ((5,), (4, 9))])
    def test_any_strides(self, lead, shape, backend):
        args = self.norm.args(*lead, shape=shape)
        op_checks.check_any_strides(self.norm.op, args, backend, math.prod(shape))
        expanded = (args[0][:1].expand(args[0].shape), *args[1:])
        op_checks.check_any_strides(self.norm.op, expanded, backend, math.prod(shape))

    @everywhere
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("position", [0, 20, 36])
    def test_special_values(self, position, value, backend):
        args = self.norm.args(6, shape=(37,))
        args[0][2, position] = value
        op_checks.check_special_values(self.norm.op, args, backend)

    @everywhere
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_parameters_in_float32_beside_a_narrow_input(self, dtype, backend):
        check_mixed_dtypes(self.norm, dtype, backend)

    @by_name
    @far_from_zero
    def test_a_mean_far_from_zero_costs_no_digit(self, offset, deviation, backend):
        check_far_from_zero(self.norm, offset, deviation, backend)

    @everywhere
    @pytest.mark.parametrize("threads", [1, 2, 3])
    @pytest.mark.parametrize("name", ["two-threads", "rows-above"])
    def test_threads(self, name, threads, backend):
        op_checks.check_thread_counts(self.norm.op, self.norm.case(name), backend, threads)

    @by_name
    def test_the_parameters_gradients_lose_nothing_in_many_rows(self, backend):
        """Behind a term of 2^24, ones are lost to a float32 sum; no more than 256 rows may share one."""
        rows, args = 4096, self.norm.args(4096, shape=(2,))
        args = self.norm.op.leaves(args)
        grad = torch.ones(rows, 2)
        grad[0] = 2.0**24
        first = [torch.zeros_like(grad)] if self.norm.has_residual else []

        def gradients(call, args):
            out = call(*args)
            both = torch.stack([grad, *first]) if self.norm.has_residual else grad
            return torch.autograd.grad(out, op_checks.tensors(args), both.to(out.dtype))

        with fm.use_backend(backend):
            found = gradients(self.norm.op.face, args)
        expected = gradients(self.norm.op.plain, self.norm.op.leaves(args, torch.float64))
        for a, b in list(zip(found, expected, strict=True))[1 + self.norm.has_residual :]:
            torch.testing.assert_close(a.double(), b, rtol=1e-6, atol=256)

    def test_few_values_are_left_to_pytorch_by_automatic_choice_alone(self):
        """Where the call costs more than the kernel gains; rms_norm's always gains."""
        args = self.norm.op.leaves(self.norm.args(3, shape=(5,)))
        narrow = self.norm.op.leaves(args[: -self.norm.parameters]) + tuple(
            parameter.bfloat16() for parameter in args[-self.norm.parameters :]
        )  # which PyTorch's layer norm does not take

        def is_fused(args):
            out = getattr(fm.functional, self.norm.name)(*args)
            out = out[0] if self.norm.has_residual else out
            return out.grad_fn.name().startswith(self.norm.name)

        for backend in BACKENDS:
            with fm.use_backend(backend):
                assert is_fused(args) == (backend is not None or not self.norm.is_centred)
                assert is_fused(narrow)

    @by_name
    @pytest.mark.parametrize("name", ["tiny", "two-dims", "weight-alone", "no-parameters"])
    def test_only_the_gradients_wanted(self, name, backend):
        args = self.norm.case(name).make(torch.float32)
        with fm.use_backend(backend):
            op_checks.check_only_the_gradients_wanted(self.norm.op, args)

    @pytest.mark.parametrize("name", ["tiny", "two-dims", "no-parameters", "vector"])
    def test_derivatives(self, name):
        op_checks.check_derivatives(self.norm.op, self.norm.case(name).make(torch.float64))

    @everywhere
    @pytest.mark.parametrize("name", ["tiny", "two-dims", "no-parameters"])
    def test_second_derivative_of_float32(self, name, backend):
        args = self.norm.case(name).make(torch.float32)
        op_checks.check_mixed_second_derivative(self.norm.op, args, backend)

    @pytest.mark.parametrize("name", ["tiny", "two-dims", "no-parameters"])
    def test_registration(self, name):
        args = self.norm.case(name).make(torch.float32)
        leads, shape, *parameters = _parts(self.norm, args)

        def backward_args(args, outs):
            grads = [torch.randn_like(out) for out in outs[:-1]]
            x = outs[1] if self.norm.has_residual else args[0]
            own = args[len(leads) : -2]
            wanted = [True, *(parameter is not None for parameter in own)]
            return *grads, x, *own, outs[-1], *args[-2:], wanted

        op_checks.check_registration(
            self.norm.op, (*leads, *parameters, len(shape), 1e-5), backward_args
        )

    def test_compiles_as_one_graph(self):
        module = self.norm.module(20)
        if self.norm.has_residual:
            op_checks.check_compiles(_Stacked(module), torch.randn(4, 20), torch.randn(4, 20))
        else:
            op_checks.check_compiles(module, torch.randn(4, 20))

    @pytest.mark.filterwarnings(MIXED)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        op_checks.check_autocast(self.norm.op, self.norm.args(4, shape=(20,)), dtype, depth=20)

    def test_autocast_on_cuda_is_to_float32_as_pytorchs(self):
        for key, is_there in (("AutocastCUDA", True), ("AutocastCPU", False)):
            for name in (f"fastmodel::{self.norm.name}", "aten::layer_norm", "aten::rms_norm"):
                assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key) == is_there

    @by_name
    def test_module_is_pytorchs(self, backend, tmp_path):
        plain = self.norm.twin((3, 7), eps=0.1).eval()
        fused = self.norm.module.from_torch(plain)
        assert isinstance(fused, self.norm.twin) and not fused.training
        assert dict(fused.named_parameters()).keys() == dict(plain.named_parameters()).keys()
        for name, parameter in plain.named_parameters():
            assert getattr(fused, name) is parameter
            torch.nn.init.normal_(parameter)
        assert fused.extra_repr() == plain.extra_repr()
        x, residual = torch.randn(4, 3, 7), torch.randn(4, 3, 7)
        if self.norm.has_residual:
            twin, call = _Stacked(fused, residual), _stacked(plain, residual)
        else:
            twin, call = fused, plain
        with fm.use_backend(backend):
            op_checks.check_module_twins(twin, call, x, tmp_path)
        self.norm.twin((3, 7)).load_state_dict(fused.state_dict())
        assert (
            self.norm.module.from_torch(self.norm.twin(5, elementwise_affine=False)).weight is None
        )

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda x, shape, weight: (x, (), weight), "at least one"),
            (lambda x, shape, weight: (x, (4,), weight), "input has shape (2, 3)"),
            (lambda x, shape, weight: (x, (2, 3, 3), weight), "input has shape (2, 3)"),
            (lambda x, shape, weight: (x, 3, weight), "pass a tuple"),
            (lambda x, shape, weight: (x.long(), shape, weight), "input must be floating point"),
            (lambda x, shape, weight: (x, shape, weight[:2]), "weight has shape (2,)"),
            (lambda x, shape, weight: (x, shape, weight.long()), "weight must be floating point"),
            (lambda x, shape, weight: (x, shape, weight.to("meta")), "weight on meta"),
        ],
    )
    def test_bad_input(self, change, words):
        x, shape, weight = change(torch.ones(2, 3), (3,), torch.ones(3))
        residual = [torch.ones_like(x)] if self.norm.has_residual else []
        op_checks.check_bad_input(self.norm.op, (x, *residual, shape, weight), words)


class ResidualNormTests(NormTests):
    """The tests of a norm of a sum."""

    @everywhere
    @pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
    def test_what_is_normalised_is_the_sum_as_it_is_returned(self, dtype, backend):
        check_the_sum_is_normalised(self.norm, dtype, backend)

    @everywhere
    @pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["out", "sum", "both"])
    def test_either_result_may_go_unused(self, used, backend):
        args = self.norm.args(5, shape=(33,))
        face = getattr(fm.functional, self.norm.name)

        def gradients(call, args):
            results = call(*args)
            total = sum((results[i] * (i + 2)).square().sum() for i in used)
            return torch.autograd.grad(
                total, op_checks.tensors(args), allow_unused=True, materialize_grads=True
            )

        with fm.use_backend(backend):
            found = gradients(face, self.norm.op.leaves(args))
        wide = self.norm.op.leaves(args, torch.float64)
        for a, b in zip(found, gradients(self.norm.plain, wide), strict=True):
            op_checks.assert_close(a, b, torch.float32, 33, f"{used}")

    @everywhere
    @pytest.mark.parametrize("narrow", [0, 1])
    def test_dtypes_promote(self, narrow, backend):
        check_promotion(self.norm, narrow, backend)

    def test_a_float64_residual(self):
        x, residual, *rest = self.norm.args(5, shape=(33,))
        args = (x, residual.double(), *rest)
        found = self.norm.op.face(*args)
        wide = [arg.double() if isinstance(arg, Tensor) else arg for arg in args]
        op_checks.assert_close(found, self.norm.op.plain(*wide), torch.float64, 33, "float64")
        if "cpu" in BACKENDS:
            with fm.use_backend("cpu"), pytest.raises(fm.errors.BackendError, match="promote to"):
                self.norm.op.face(*args)

    def test_a_residual_of_another_shape_or_kind(self):
        x = torch.ones(2, 3)
        for residual, words in (
            (torch.ones(3), "residual (3,)"),
            (torch.ones(2, 3).long(), "residual must be floating point"),
            (torch.ones(2, 3, device="meta"), "residual on meta"),
        ):
            op_checks.check_bad_input(self.norm.op, (x, residual, (3,)), words)


class _Stacked(nn.Module):
    """Both results in one tensor; the residual is an input or a buffer."""

    def __init__(self, module: nn.Module, residual: Tensor | None = None) -> None:
        super().__init__()
        self.module, self.residual = module, residual

    def forward(self, x, residual=None):
        return torch.stack(self.module(x, self.residual if residual is None else residual))


def _stacked(plain: nn.Module, residual: Tensor):
    return lambda x: torch.stack([plain(x + residual), x + residual])


def _parts(norm: Norm, args: tuple) -> tuple:
    """x and residual in a list, normalized_shape, the parameters."""
    leads = 1 + norm.has_residual
    return list(args[:leads]), *args[leads:]
