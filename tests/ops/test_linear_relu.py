"""linear_relu against torch.relu(F.linear(...))."""

import copy
import math
import pickle

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
    if backend is not None and not op_checks.serves(OP.name, backend, dtype):
        pytest.skip(f"{backend} has no {dtype} kernel of {OP.name}")
    op_checks.check_against_float64(OP, case, backend, dtype)


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_any_strides(backend):
    x = torch.randn(12, 10)[::2, 1:8]
    weight = torch.randn(7, 7).t()
    bias = torch.randn(14)[::2]
    grad = torch.randn(7, 6).t()
    assert not x.is_contiguous() and not bias.is_contiguous()
    args = op_checks.leaves((x, weight, bias))
    with fm.use_backend(backend):
        out = fm.functional.linear_relu(*args)
        found = [out, *torch.autograd.grad(out, args, grad)]
    wide = op_checks.leaves(args, torch.float64)
    out = plain(*wide)
    for a, b in zip(found, [out, *torch.autograd.grad(out, wide, grad.double())], strict=True):
        op_checks.assert_close(a, b, torch.float32, 12, "strided")


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_nan_and_infinity(backend):
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    args, twin = op_checks.leaves((x, weight)), op_checks.leaves((x, weight))
    with fm.use_backend(backend):
        out = fm.functional.linear_relu(*args)
        out.backward(torch.ones_like(out))
    expected = plain(*twin, None)
    expected.backward(torch.ones_like(expected))
    torch.testing.assert_close(out, expected, equal_nan=True)
    for a, b in zip(args, twin, strict=True):
        torch.testing.assert_close(a.grad, b.grad, equal_nan=True)


@pytest.mark.parametrize("wanted", range(1, 8))
def test_only_the_gradients_wanted(wanted):
    flags = [bool(wanted >> i & 1) for i in range(3)]
    args = [t.requires_grad_(f) for t, f in zip(CASES[5].make(torch.float32), flags, strict=True)]
    twin = [t.detach().clone().requires_grad_(t.requires_grad) for t in args]
    fm.functional.linear_relu(*args).sum().backward()
    plain(*twin).sum().backward()
    for a, b in zip(args, twin, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)


def test_gradcheck():
    args = op_checks.leaves(CASES[3].make(torch.float64))
    assert torch.autograd.gradcheck(fm.functional.linear_relu, args)
    assert torch.autograd.gradgradcheck(fm.functional.linear_relu, args)


@pytest.mark.parametrize("case", [CASES[3], CASES[1]], ids=str)
def test_opcheck(case):
    args = op_checks.leaves(case.make(torch.float32))
    torch.library.opcheck(torch.ops.fastmodel.linear_relu.default, args)
    out = fm.functional.linear_relu(*args)
    backward = (torch.randn_like(out), args[0], args[1], out.detach(), [True, True, True])
    torch.library.opcheck(torch.ops.fastmodel.linear_relu_backward.default, backward)


def test_compiles_as_one_graph():
    module = fm.nn.LinearReLU(20, 7)
    x = torch.randn(4, 20)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x))
    compiled(x).sum().backward()
    grad = module.weight.grad.clone()
    module.zero_grad()
    module(x).sum().backward()
    torch.testing.assert_close(grad, module.weight.grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    module = fm.nn.LinearReLU(20, 7)
    x = torch.randn(4, 20)
    with torch.autocast("cpu", dtype=dtype):
        out = module(x)
        expected = plain(x, module.weight, module.bias)
    assert out.dtype == expected.dtype == dtype
    op_checks.assert_close(out, expected, dtype, 20, "autocast")
    out.float().sum().backward()
    assert module.weight.grad.dtype == torch.float32


def test_flops_are_counted():
    module = fm.nn.LinearReLU(20, 7)
    x = torch.randn(4, 20)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(x).sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 20 * 7 * 2  # x wants no gradient


def test_module_is_a_linear():
    linear = nn.Linear(20, 7).eval()
    fused = fm.nn.LinearReLU.from_torch(linear)
    assert isinstance(fused, nn.Linear)
    assert fused.weight is linear.weight and fused.bias is linear.bias and not fused.training
    assert "in_features=20, out_features=7, bias=True" in repr(fused)
    x = torch.randn(3, 20)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        torch.testing.assert_close(twin(x), torch.relu(linear(x)))
    assert fm.nn.LinearReLU.from_torch(nn.Linear(3, 2, bias=False)).bias is None


def test_state_dict_goes_both_ways(tmp_path):
    torch.save(nn.Linear(20, 7).state_dict(), tmp_path / "plain.pt")
    fused = fm.nn.LinearReLU(20, 7)
    fused.load_state_dict(torch.load(tmp_path / "plain.pt", weights_only=True))
    torch.save(fused.state_dict(), tmp_path / "fused.pt")
    nn.Linear(20, 7).load_state_dict(torch.load(tmp_path / "fused.pt", weights_only=True))


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
    with pytest.raises(fm.errors.InputError) as raised:
        fm.functional.linear_relu(*args)
    assert words in str(raised.value)
    assert str(raised.value).startswith("linear_relu: ") and "\n" not in str(raised.value)
