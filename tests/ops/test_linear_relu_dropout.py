"""linear_relu_dropout: without dropout against torch.relu(F.linear(...)), with it against its own mask."""

import math

import pytest
import torch
import torch.nn.functional as F
from support import op_checks
from support.op_checks import OpUnderTest
from torch import nn

import fastmodel as fm
from fastmodel.ops.linear_relu_dropout.cases import CASES
from fastmodel.ops.stochastic_rounding import philox, random_bits


def plain(x, weight, bias, p):
    return torch.relu(F.linear(x, weight, bias))


OP = OpUnderTest("linear_relu_dropout", fm.functional.linear_relu_dropout, plain, CASES)
BACKENDS = [*op_checks.backends(OP.name), None]
everywhere = pytest.mark.parametrize("backend", BACKENDS, ids=str)


@pytest.mark.parametrize("dtype", op_checks.DTYPES, ids=str)
@everywhere
@pytest.mark.parametrize("case", OP.test_cases, ids=str)
def test_forward_and_gradients_without_dropout(case, backend, dtype):
    op_checks.check_against_float64(OP, case, backend, dtype)


def kept(seed: int, count: int, p: float) -> torch.Tensor:
    """Which of `count` elements the seed keeps; the generator has its known answers in Adam's tests."""
    return random_bits(torch.empty(count), 0, 0, seed) >= p * 2**32


def with_seed(seed: int, p: float) -> OpUnderTest:
    """The op with one mask for every call, and the same from torch's own functions in any dtype."""
    drawn = torch.tensor(seed)

    def face(x, weight, bias):
        return torch.ops.fastmodel.linear_relu_dropout(x, weight, bias, drawn, p)

    def masked(x, weight, bias):
        out = torch.relu(F.linear(x, weight, bias))
        keep = kept(seed, out.numel(), p).reshape(out.shape)
        return out * (keep * (1 / (1 - p))).to(out.dtype)

    return OpUnderTest(OP.name, face, masked, CASES)


@pytest.mark.parametrize("seed", [0, 12345, 2**63 - 1])
@everywhere
@pytest.mark.parametrize("index", [1, 3, 5, 6, 7])
def test_forward_and_gradients_with_a_mask(index, backend, seed):
    """0.75 keeps a quarter, times 4: exact in every dtype, so that the usual bounds hold (times 4)."""
    case = CASES[index]
    op = with_seed(seed, 0.75)
    x, weight, bias, _ = case.make(torch.float32)
    args = op.leaves((x, weight, bias))
    with fm.use_backend(backend):
        found = op_checks.run_with_gradients(op.face, args, case.name)
    wide = op.leaves(args, torch.float64)
    for a, b in zip(found, op_checks.run_with_gradients(op.plain, wide, case.name), strict=True):
        op_checks.assert_close(a, b, torch.float32, 16 * case.depth, str(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@everywhere
@pytest.mark.parametrize("size", [1, 3, 63, 64, 65, 40000])
def test_one_seed_is_one_mask_everywhere(size, backend, dtype):
    """Whichever kernel draws it, on however many threads."""
    x, weight = torch.ones(size, 1, dtype=dtype), torch.ones(1, 1, dtype=dtype)
    expected = kept(77, size, 0.25).unsqueeze(1)
    with fm.use_backend(backend):
        out = torch.ops.fastmodel.linear_relu_dropout(x, weight, None, torch.tensor(77), 0.25)
    assert torch.equal(out != 0, expected)
    torch.testing.assert_close(out, expected.to(dtype) / 0.75)


def test_the_mask_hangs_on_place_and_seed():
    assert torch.equal(kept(2**40 + 3, 9, 0.5), kept(2**40 + 3, 300, 0.5)[:9])
    assert not torch.equal(kept(1, 64, 0.5), kept(1 + 2**32, 64, 0.5))
    # The first words of counter 0, 1, ... one after the other: the block is 64 elements.
    words = philox((torch.arange(16), *[torch.zeros(16, dtype=torch.int64)] * 3), 7)
    assert torch.equal(random_bits(torch.empty(64), 0, 0, 7), torch.cat(words))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_one_mask_for_every_thread_count(threads):
    x, weight = torch.ones(1000, 1), torch.ones(333, 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = torch.ops.fastmodel.linear_relu_dropout(x, weight, None, torch.tensor(5), 0.5)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(out.flatten() != 0, kept(5, out.numel(), 0.5))


@everywhere
@pytest.mark.parametrize("p", [1e-12, 1 - 2.0**-40])
def test_a_rate_next_to_0_or_1_keeps_all_or_none(p, backend):
    x, weight = torch.ones(100, 1), torch.ones(7, 1)
    with fm.use_backend(backend):
        out = torch.ops.fastmodel.linear_relu_dropout(x, weight, None, torch.tensor(5), p)
    assert (out != 0).all() if p < 0.5 else not out.any()


def ones_dropped(rows: int, columns: int, p: float) -> torch.Tensor:
    x, weight = torch.ones(rows, 1), torch.ones(columns, 1)
    return fm.functional.linear_relu_dropout(x, weight, None, p)


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
def test_rate_and_scale(p):
    torch.manual_seed(0)
    out = ones_dropped(1000, 1000, p)
    kept = out != 0
    assert torch.allclose(out[kept], torch.tensor(1 / (1 - p)))
    # Five deviations of a binomial count, over all elements and over any row or column.
    deviation = math.sqrt(p * (1 - p))
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * deviation / 1000
    for dim in (0, 1):
        rates = kept.double().mean(dim)
        assert (rates - (1 - p)).abs().max() < 6 * deviation / math.sqrt(1000)
        # The rates scatter as those of independent elements do: variance within five deviations.
        ratio = rates.var().item() / (p * (1 - p) / 1000)
        assert abs(ratio - 1) < 5 * math.sqrt(2 / 1000)


def test_elements_and_calls_are_independent():
    torch.manual_seed(0)
    first, second = ((ones_dropped(500, 512, 0.5) != 0).double() * 2 - 1 for _ in range(2))
    flat, count = first.flatten(), first.numel()
    bound = 5 / math.sqrt(count)
    assert abs((flat * second.flatten()).mean()) < bound
    for lag in (1, 2, 3, 4, 16, 32, 64, 512):
        assert abs((flat[:-lag] * flat[lag:]).mean()) < bound, lag


def test_manual_seed_governs():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append((ones_dropped(30, 40, 0.5), ones_dropped(30, 40, 0.5)))
    assert torch.equal(draws[0][0], draws[1][0]) and torch.equal(draws[0][1], draws[1][1])
    assert not torch.equal(draws[0][0], draws[0][1])
    assert not torch.equal(draws[0][0], draws[2][0])


@everywhere
def test_the_gradient_has_the_mask_of_the_output(backend):
    x, bias = torch.randn(64, 9), torch.randn(33, requires_grad=True)
    weight = torch.randn(33, 9, requires_grad=True)
    with fm.use_backend(backend):
        out = fm.functional.linear_relu_dropout(x, weight, bias, 0.4)
        grad = torch.randn_like(out)
        found = torch.autograd.grad(out, (weight, bias), grad, retain_graph=True)
    masked = grad * (out > 0) / 0.6
    torch.testing.assert_close(found[0], masked.T @ x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], masked.sum(0), rtol=1e-4, atol=1e-4)


@everywhere
def test_evaluation_and_the_ends_of_p(backend):
    x, linear = torch.randn(5, 7), nn.Linear(7, 9)
    module = fm.nn.LinearReLUDropout.from_torch(linear, nn.Dropout(0.5))
    plain_out = linear(x).relu()
    with fm.use_backend(backend):
        torch.testing.assert_close(module.eval()(x), plain_out)
        module.train().p = 0.0
        torch.testing.assert_close(module(x), plain_out)
        module.p = 1.0
        out = module(x)
        assert torch.equal(out, torch.zeros_like(out))
        out.sum().backward()
    assert not linear.weight.grad.any() and not linear.bias.grad.any()


def test_no_random_number_is_drawn_where_nothing_is_dropped():
    before = torch.get_rng_state()
    module = fm.nn.LinearReLUDropout(3, 2).eval()
    torch.set_rng_state(before)
    module(torch.randn(1, 3, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


@everywhere
def test_nan_and_infinity(backend):
    x = torch.tensor([[math.nan, 1.0], [math.inf, 1.0], [-math.inf, 1.0], [0.0, 0.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]])
    op = with_seed(5, 0.5)
    with fm.use_backend(backend):
        torch.testing.assert_close(
            op.face(x, weight, None), op.plain(x, weight, None), equal_nan=True
        )


@everywhere
def test_the_gradient_where_nan_was_dropped(backend):
    """It passes, as NaN passes PyTorch's ReLU: out alone does not say that it was dropped as well."""
    x, weight = torch.full((64, 1), math.nan), torch.ones(1, 1)
    bias = torch.zeros(1, requires_grad=True)
    with fm.use_backend(backend):
        out = torch.ops.fastmodel.linear_relu_dropout(x, weight, bias, torch.tensor(5), 0.5)
        out.backward(torch.ones_like(out))
    assert out.isnan().all() and bias.grad.item() == 2 * 64


@everywhere
def test_any_strides(backend):
    args = (torch.randn(12, 10)[::2, 1:8], torch.randn(7, 7).t(), torch.randn(14)[::2])
    op_checks.check_any_strides(with_seed(3, 0.5), args, backend, depth=48)


def test_derivatives():
    x, weight, bias, _ = CASES[3].make(torch.float64)
    op_checks.check_derivatives(with_seed(3, 0.5), (x, weight, bias))


@pytest.mark.parametrize("case", [CASES[3], CASES[1]], ids=str)
def test_registration(case):
    def backward_args(args, outs):
        return (torch.randn_like(outs[0]), args[0], args[1], outs[0], 0.5, [True, True, True])

    x, weight, bias, _ = case.make(torch.float32)
    op_checks.check_registration(OP, (x, weight, bias, torch.tensor(4), 0.5), backward_args)


def test_compiles_as_one_graph():
    op_checks.check_compiles(fm.nn.LinearReLUDropout(20, 7, p=0.0), torch.randn(4, 20))
    torch._dynamo.reset()
    module = fm.nn.LinearReLUDropout(20, 7)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(64, 20)
    first, second = compiled(x), compiled(x)
    assert not torch.equal(first, second)
    positive = torch.relu(F.linear(x, module.weight, module.bias)) > 0
    assert 0.3 < (first > 0)[positive].double().mean() < 0.7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    args = (torch.randn(4, 20), torch.randn(7, 20) / math.sqrt(20), torch.randn(7), 0.0)
    op_checks.check_autocast(OP, args, dtype, depth=20)


def test_flops_are_counted():
    module = fm.nn.LinearReLUDropout(20, 7)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        module(torch.randn(4, 20)).sum().backward()
    assert counter.get_total_flops() == 2 * 4 * 20 * 7 * 2  # x wants no gradient


def test_module_is_a_linear(tmp_path):
    linear, dropout = nn.Linear(20, 7).eval(), nn.Dropout(0.25)
    fused = fm.nn.LinearReLUDropout.from_torch(linear, dropout)
    assert isinstance(fused, nn.Linear)
    assert fused.weight is linear.weight and fused.bias is linear.bias and not fused.training
    assert "in_features=20, out_features=7, bias=True, p=0.25" in repr(fused)
    assert set(fused.state_dict()) == set(linear.state_dict())
    op_checks.check_module_twins(fused, lambda x: linear(x).relu(), torch.randn(3, 20), tmp_path)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((torch.ones(2, 3), torch.ones(4, 5), None), "expects 5 input features"),
        ((torch.ones(2, 3), torch.ones(4, 3), None, 1.5), "p must be between 0.0 and 1.0"),
        ((torch.ones(2, 3), torch.ones(4, 3), None, math.nan), "p must be between 0.0 and 1.0"),
        ((torch.ones(2, 3), torch.ones(4, 3).double(), None), "x is float32, weight is float64"),
    ],
)
def test_bad_input(args, words):
    op_checks.check_bad_input(OP, args, words)


def test_a_module_refuses_a_bad_p():
    with pytest.raises(fm.errors.InputError, match="p must be between"):
        fm.nn.LinearReLUDropout(3, 2, p=-0.1)


def test_the_mask_is_pytorchs_where_a_graph_is_recorded(monkeypatch):
    """A seed drawn on the host would be one mask for all replays."""
    monkeypatch.setattr("fastmodel.ops.native.is_captured", lambda x: True)
    x, weight = torch.randn(9, 5), torch.randn(64, 5, requires_grad=True)
    torch.manual_seed(1)
    out = fm.functional.linear_relu_dropout(x, weight, None, 0.5)
    torch.manual_seed(1)
    expected = F.dropout(torch.relu(F.linear(x, weight)), 0.5)
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.sum(), weight)
    torch.testing.assert_close(grad, torch.autograd.grad(expected.sum(), weight)[0])
