"""linear_relu against torch.relu(F.linear(...))."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.linear_relu.cases import CASES


def plain(x, weight, bias):
    return torch.relu(F.linear(x, weight, bias))


OP = OpUnderTest("linear_relu", fm.functional.linear_relu, plain, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_any_strides(backend):
    args = (torch.randn(12, 10)[::2, 1:8], torch.randn(7, 7).t(), torch.randn(14)[::2])
    op_checks.check_any_strides(OP, args, backend, depth=12)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_nan_and_infinity(backend):
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    op_checks.check_special_values(OP, (x, weight, None), backend)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_thread_counts(backend, threads):
    op_checks.check_thread_counts(OP, CASES[5], backend, threads)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_bfloat16_is_rounded_to_nearest_even(backend):
    outer = (torch.rand(64, 1), torch.rand(33, 1), None)
    inner = (torch.rand(1, 150), torch.rand(1, 150), None)
    op_checks.check_bfloat16_rounding(OP, outer, inner, backend)


def test_only_the_gradients_wanted():
    op_checks.check_only_the_gradients_wanted(OP, CASES[5].make(torch.float32))


def test_derivatives():
    op_checks.check_derivatives(OP, CASES[3].make(torch.float64))


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_second_derivative_of_float32(backend):
    op_checks.check_mixed_second_derivative(OP, CASES[3].make(torch.float32), backend)


@pytest.mark.parametrize("case", [CASES[3], CASES[1]], ids=str)
def test_registration(case):
    def backward_args(args, outs):
        return (torch.randn_like(outs[0]), args[0], args[1], outs[0], [True, True, True])

    op_checks.check_registration(OP, case.make(torch.float32), backward_args)


def test_compiles_as_one_graph():
    op_checks.check_compiles(fm.nn.LinearReLU(20, 7), torch.randn(4, 20))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    args = (torch.randn(4, 20), torch.randn(7, 20) / math.sqrt(20), torch.randn(7))
    op_checks.check_autocast(OP, args, dtype, depth=20)


def test_flops_are_counted():
    module = fm.nn.LinearReLU(20, 7)
    x = torch.randn(4, 20)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 20 * 7 * 2  # x wants no gradient


def test_module_is_a_linear(tmp_path):
    linear = nn.Linear(20, 7).eval()
    fused = fm.nn.LinearReLU.from_torch(linear)
    assert isinstance(fused, nn.Linear)
    assert fused.weight is linear.weight and fused.bias is linear.bias and not fused.training
    assert "in_features=20, out_features=7, bias=True" in repr(fused)
    op_checks.check_module_twins(fused, lambda x: linear(x).relu(), torch.randn(3, 20), tmp_path)
    assert fm.nn.LinearReLU.from_torch(nn.Linear(3, 2, bias=False)).bias is None


def test_state_dict_goes_both_ways():
    linear, fused = nn.Linear(20, 7), fm.nn.LinearReLU(20, 7)
    fused.load_state_dict(linear.state_dict())
    x = torch.randn(3, 20)
    torch.testing.assert_close(fused(x), linear(x).relu())
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
        ((torch.ones(2, 3), torch.ones(4, 3).double(), None), "x is float32, weight is float64"),
        ((torch.ones(2, 3, dtype=torch.int64), torch.ones(4, 3), None), "must be floating point"),
        ((torch.ones(2, 3), torch.ones(4, 3, device="meta"), None), "weight on meta"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)
