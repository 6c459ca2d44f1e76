"""linear against F.linear, and against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel import env
from fastmodel.ops import dispatch
from fastmodel.ops.linear import worth
from fastmodel.ops.linear.cases import CASES

OP = OpUnderTest("linear", fm.functional.linear, F.linear, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]
BY_NAME = {case.name: case for case in CASES}
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


@everywhere
def test_any_strides(backend):
    args = (torch.randn(12, 10)[::2, 1:8], torch.randn(7, 7).t(), torch.randn(14)[::2])
    op_checks.check_any_strides(OP, args, backend, depth=12)


@everywhere
def test_nan_and_infinity(backend):
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    op_checks.check_special_values(OP, (x, weight, None), backend)


@pytest.mark.parametrize("threads", [1, 2, 3])
@everywhere
@pytest.mark.parametrize("name", ["edges-below", "blocked-above"])
def test_thread_counts(name, backend, threads):
    op_checks.check_thread_counts(OP, BY_NAME[name], backend, threads)


@everywhere
def test_bfloat16_is_rounded_to_nearest_even(backend):
    outer = (torch.rand(64, 1), torch.rand(33, 1), None)
    inner = (torch.rand(1, 150), torch.rand(1, 150), None)
    op_checks.check_bfloat16_rounding(OP, outer, inner, backend)


def test_only_the_gradients_wanted():
    op_checks.check_only_the_gradients_wanted(OP, BY_NAME["edges-below"].make(torch.float32))


def test_derivatives():
    op_checks.check_derivatives(OP, BY_NAME["3d"].make(torch.float64))


@everywhere
def test_second_derivative_of_float32(backend):
    op_checks.check_mixed_second_derivative(OP, BY_NAME["3d"].make(torch.float32), backend)


@pytest.mark.parametrize("name", ["3d", "tiny-no-bias"])
def test_registration(name):
    def backward_args(args, outs):
        return (torch.randn_like(outs[0]), args[0], args[1], [True, True, True])

    op_checks.check_registration(OP, BY_NAME[name].make(torch.float32), backward_args)


def test_compiles_as_one_graph():
    op_checks.check_compiles(fm.nn.Linear(20, 7), torch.randn(4, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    args = (torch.randn(4, 20), torch.randn(7, 20) / math.sqrt(20), torch.randn(7))
    op_checks.check_autocast(OP, args, dtype, depth=20)


def test_flops_are_counted():
    module = fm.nn.Linear(20, 7)
    x = torch.randn(4, 20)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 20 * 7 * 2  # x wants no gradient


def test_module_is_a_linear(tmp_path):
    plain = nn.Linear(20, 7).eval()
    twin = fm.nn.Linear.from_torch(plain)
    assert isinstance(twin, nn.Linear)
    assert twin.weight is plain.weight and twin.bias is plain.bias and not twin.training
    assert "in_features=20, out_features=7, bias=True" in repr(twin)
    op_checks.check_module_twins(twin, plain, torch.randn(3, 20), tmp_path)
    assert fm.nn.Linear.from_torch(nn.Linear(3, 2, bias=False)).bias is None
    nn.Linear(20, 7).load_state_dict(twin.state_dict())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            (torch.ones(2, 3), torch.ones(4, 5), None),
            "expects 5 input features, x has shape (2, 3)",
        ),
        ((torch.ones(2, 3), torch.ones(3), None), "weight must have shape"),
        ((torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), "asks for shape (4,) or None"),
        ((torch.ones(2, 3), torch.ones(4, 3).double(), None), "x is float32, weight is float64"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


@pytest.mark.parametrize(
    ("vendor", "capability", "rows", "dtype", "is_ours"),
    [
        ("AuthenticAMD", "avx512", 2048, torch.float32, True),
        ("GenuineIntel", "avx512", 2048, torch.float32, False),
        (None, "avx512", 2048, torch.float32, False),
        ("AuthenticAMD", "avx2", 2048, torch.float32, False),
        ("AuthenticAMD", "avx512", 2048, torch.bfloat16, False),
        ("AuthenticAMD", "avx512", 8, torch.float32, False),
    ],
)
def test_where_our_product_is_chosen(monkeypatch, vendor, capability, rows, dtype, is_ours):
    monkeypatch.setattr(env, "cpu_vendor", lambda: vendor)
    monkeypatch.setattr(env, "cpu_capability", lambda: capability)
    x, weight = torch.ones(rows, 128, dtype=dtype), torch.ones(384, 128, dtype=dtype)
    for pass_, args in (
        ("forward", (x, weight, None)),
        ("backward", (torch.ones(rows, 384, dtype=dtype), x, weight, [True] * 3)),
    ):
        chosen = dispatch.choose("linear", pass_, *args)
        assert chosen.__name__ == (f"{pass_}_cpu" if is_ours else pass_)


def test_a_large_weight_stays_with_pytorch(monkeypatch):
    monkeypatch.setattr(env, "cpu_vendor", lambda: "AuthenticAMD")
    monkeypatch.setattr(env, "cpu_capability", lambda: "avx512")
    assert worth.of_size(64, 4096, 1024, torch.float32) is None
    assert "larger than any" in worth.of_size(64, 4096, 1025, torch.float32)
