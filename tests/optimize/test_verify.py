"""The float64 check of a single place: right kernels pass, wrong ones do not, ties are nobody's fault."""

import copy
import math
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmodel as fm
from fastmodel.optimize import norm_terms
from fastmodel.optimize.select import Candidate
from fastmodel.optimize.verify import error_of, verify


def candidate(plain, fused, x, requires_grad=True):
    x = x.requires_grad_(requires_grad)
    return Candidate("0", "pattern", plain, fused, tuple(x.shape), x.dtype, x.device, x)


def pooled(channels=3, size=11, dtype=torch.float32, **pool):
    plain = nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(**{"kernel_size": 2, **pool})
    ).to(dtype)
    fused = fm.nn.ConvReLUMaxPool2d.from_torch(plain[0], plain[2])
    return candidate(plain, fused, torch.randn(4, channels, size, size, dtype=dtype))


def linear():
    plain = nn.Sequential(nn.Linear(30, 20), nn.ReLU())
    return candidate(plain, fm.nn.LinearReLU.from_torch(plain[0]), torch.randn(7, 30))


CASES = {
    "conv, pool": pooled,
    "overlapping pool": lambda: pooled(kernel_size=3, stride=2, padding=1),
    "uneven pool": lambda: pooled(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0)),
    "bfloat16": lambda: pooled(dtype=torch.bfloat16),
    "linear": linear,
    "winograd": lambda: pooled(64, 16),
}


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
def test_a_right_kernel_passes_and_its_checks_are_complete(make):
    one = make()
    found = verify(one)
    assert found.passed, str(found)
    names = ["output", "gradient of input", "gradient of weight", "gradient of bias"]
    assert [check.tensor for check in found.checks] == names
    assert 0 <= found.tie_share < (0.4 if one.x.dtype is torch.bfloat16 else 0.01)
    eps = torch.finfo(one.x.dtype).eps
    for check in found.checks:
        assert 2 * check.torch_error < check.bound <= 2 * check.torch_error + 100 * eps
    assert all(p.grad is None for p in one.plain.parameters()) and one.x.grad is None


def norm_terms_by_rows(norm, x, grad):
    """What out and the gradients of x, weight and bias sum, a row and a value at a time."""
    n = math.prod(norm.normalized_shape)
    weight = [abs(v) for v in norm.weight.flatten().tolist()]
    is_centred = isinstance(norm, nn.LayerNorm)
    bias = [abs(v) for v in norm.bias.flatten().tolist()] if is_centred else [0.0] * n
    out, of_x, of_weight, of_bias = [], [], [0.0] * n, [0.0] * n
    for row, g in zip(x.reshape(-1, n).tolist(), grad.reshape(-1, n).abs().tolist(), strict=True):
        mean = sum(row) / n if is_centred else 0.0
        s = math.sqrt(sum((v - mean) ** 2 for v in row) / n + norm.eps)
        d = [(abs(v) + abs(mean)) / s for v in row]
        out += [d[i] * weight[i] + bias[i] for i in range(n)]
        own = [g[i] * weight[i] for i in range(n)]
        along, level = sum(map(operator.mul, own, d)) / n, sum(own) / n * is_centred
        of_x += [(own[i] + level + d[i] * along) / s for i in range(n)]
        of_weight = [of_weight[i] + g[i] * d[i] for i in range(n)]
        of_bias = [of_bias[i] + g[i] for i in range(n)]
    return [out, of_x, of_weight, *([of_bias] if is_centred else [])]


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("shape", [(5,), (3, 4)], ids=str)
@pytest.mark.parametrize("kind", [nn.LayerNorm, nn.RMSNorm])
def test_the_terms_of_a_norm(kind, shape, lead):
    norm = kind(shape, eps=0.1).double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = (torch.randn(*lead, *shape, dtype=torch.float64) + 2).requires_grad_()
    grad = torch.randn_like(x)
    expected = norm_terms_by_rows(norm, x.detach(), grad)
    found = [norm_terms.of_output(norm, x), *norm_terms.of_gradients(norm, x, grad)]
    assert [value.numel() for value in found] == [len(value) for value in expected]
    for value, want in zip(found, expected, strict=True):
        torch.testing.assert_close(value.flatten(), torch.tensor(want, dtype=torch.float64))
    values = norm(x)
    gradients = torch.autograd.grad(values, [x, *norm.parameters()], grad)
    for terms, value in zip(found, [values, *gradients], strict=True):
        assert (terms * (1 + 1e-9) >= value.abs()).all()  # as a sum of absolute values is
    norm.weight.requires_grad_(False)
    assert len(norm_terms.of_gradients(norm, x.detach(), grad)) == len(found) - 3


def test_the_terms_of_a_norm_without_parameters():
    x, grad = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5)
    plain, ones = nn.LayerNorm(5, elementwise_affine=False), nn.LayerNorm(5)
    assert torch.equal(norm_terms.of_output(plain, x), norm_terms.of_output(ones, x))
    (of_x,) = norm_terms.of_gradients(plain, x, grad)
    assert torch.equal(of_x, norm_terms.of_gradients(ones, x, grad)[0])


class Faulty(nn.Module):
    """A fused module with a fault planted in one of its results."""

    def __init__(self, honest, fault):
        super().__init__()
        self.weight, self.bias = honest.weight, honest.bias
        self.__dict__.update(honest=honest, fault=fault)

    def forward(self, x):
        return self.fault(self.honest, x)


class Scaled(torch.autograd.Function):
    """The identity, with a gradient off by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def biased(honest, x, factor):
    weight, bias = honest.weight, Scaled.apply(honest.bias, factor)
    return F.max_pool2d(F.relu(F.conv2d(x, weight, bias, padding=1)), 2)


def weighted(honest, x, factor):
    weight = Scaled.apply(honest.weight, factor)
    return F.max_pool2d(F.relu(F.conv2d(x, weight, honest.bias, padding=1)), 2)


def poisoned(honest, x):
    out = honest(x).clone()
    out[0, 0, 0, 0] = float("nan")
    return out


FAULTS = {
    "1 % off": (lambda honest, x: honest(x) * 1.01, "output"),
    "1e-5 off": (lambda honest, x: honest(x) * (1 + 1e-5), "output"),
    "wrong sign of x's gradient": (lambda h, x: h(Scaled.apply(x, -1.0)), "gradient of input"),
    "x's gradient 1 % off": (lambda h, x: h(Scaled.apply(x, 1.01)), "gradient of input"),
    "no gradient of the bias": (lambda h, x: biased(h, x, 0.0), "gradient of bias"),
    "the weight's gradient 1 % off": (lambda h, x: weighted(h, x, 1.01), "gradient of weight"),
    "one NaN": (poisoned, "output"),
    "another shape": (lambda honest, x: honest(x)[:, :-1], None),
    "zeros": (lambda honest, x: honest(x) * 0.0, "output"),
}


@pytest.mark.parametrize(("fault", "tensor"), FAULTS.values(), ids=FAULTS)
def test_a_wrong_kernel_fails(fault, tensor):
    one = pooled()
    bad = candidate(one.plain, Faulty(one.fused, fault), one.x.detach())
    if tensor is None:  # it cannot take the gradient of an output of another shape
        with pytest.raises(RuntimeError):
            verify(bad)
        return
    found = verify(bad)
    assert not found.passed
    assert tensor in {check.tensor for check in found.checks if not check.passed}
    assert "off by" in str(found)


def test_exact_ties_are_left_out_and_said():
    one = pooled()
    flat = candidate(one.plain, one.fused, torch.ones_like(one.x))  # whole windows of one value
    found = verify(flat)
    assert found.passed and found.tie_share > 0.1
    last = candidate(one.plain, Faulty(one.fused, last_of_equals), torch.ones_like(one.x))
    assert verify(last).passed  # which of equal values wins is no question of precision


def last_of_equals(honest, x):
    """The last maximum of a window wins, where PyTorch takes the first."""
    out = F.relu(F.conv2d(x, honest.weight, honest.bias, padding=1))[..., :10, :10]
    return F.max_pool2d(out.flip(2, 3), 2).flip(2, 3)


def test_where_terms_cancel_relu_may_pass_its_gradient_or_not():
    one = linear()
    x = one.x.detach().clone()
    with torch.no_grad():
        one.plain[0].bias.zero_()
        one.plain[0].weight[:, 15:] = -one.plain[0].weight[:, :15]
        x[:4, 15:] = x[:4, :15]
    assert verify(candidate(one.plain, one.fused, x)).tie_share == 4 / 7

    def passes(honest, x):
        before = F.linear(x, honest.weight, honest.bias)
        return torch.where(before >= 0, before, 0.0)

    assert verify(candidate(one.plain, Faulty(one.fused, passes), x)).passed


@pytest.mark.parametrize(("value", "share"), [(5e-5, 1.0), (-5e-5, 1.0), (5e-4, 0.0), (-5e-4, 0.0)])
def test_how_near_zero_is_a_tie(value, share):
    """A sum of 100 terms, of 99 in absolute value: rounding is taken as 99 x 10 x 2^-23, some 1.2e-4."""
    layer = nn.Linear(99, 1)
    with torch.no_grad():
        layer.weight[0, ::2], layer.weight[0, 1::2] = 1.0, -1.0
        layer.weight[0, 0], layer.bias[:] = 0.0, value
    plain = nn.Sequential(layer, nn.ReLU())
    one = candidate(plain, fm.nn.LinearReLU.from_torch(layer), torch.ones(3, 99))
    found = verify(one)
    assert found.passed and found.tie_share == share


class Coarse(nn.Linear):
    """Rounds what it gives to bfloat16, where it is asked for float32."""

    def forward(self, x):
        out = super().forward(x)
        return out if out.dtype is torch.float64 else out.bfloat16().float()


def test_the_bound_is_twice_pytorchs_own_error():
    layer = Coarse(30, 20)
    plain = nn.Sequential(layer, nn.ReLU())
    one = candidate(plain, fm.nn.LinearReLU.from_torch(layer), torch.randn(7, 30))
    found = verify(one)
    output = found.checks[0]
    assert output.torch_error > 1e-3 and found.passed
    assert 2 * output.torch_error < output.bound < 2.1 * output.torch_error


def test_what_is_frozen_is_not_asked_for():
    one = pooled()
    one.plain[0].weight.requires_grad_(False)
    found = verify(candidate(one.plain, one.fused, one.x.detach(), requires_grad=False))
    assert [check.tensor for check in found.checks] == ["output", "gradient of bias"]
    one.plain[0].bias.requires_grad_(False)
    found = verify(candidate(one.plain, one.fused, one.x.detach(), requires_grad=False))
    assert [check.tensor for check in found.checks] == ["output"] and found.passed


def test_infinities_must_be_the_same():
    one = pooled()
    x = one.x.detach().clone()
    x[0, 0, 3, 3] = float("inf")
    assert verify(candidate(one.plain, one.fused, x)).checks[0].passed
    finite = Faulty(one.fused, lambda honest, x: honest(x).nan_to_num(posinf=0.0, neginf=0.0))
    assert not verify(candidate(one.plain, finite, x)).passed


def test_the_error_of_what_is_not_finite():
    inf, nan = float("inf"), float("nan")
    expected = torch.tensor([inf, 2.0], dtype=torch.float64)
    assert error_of(torch.tensor([inf, 2.0]), expected) == 0.0
    assert error_of(torch.tensor([0.0, 2.0]), expected) == inf
    assert error_of(torch.tensor([inf, nan]), expected) == inf
    assert error_of(torch.tensor([inf]), expected) == inf
    assert error_of(torch.tensor([inf, 3.0]), expected) == 0.5


def test_dropout_is_left_out():
    plain = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Dropout(0.5))
    fused = fm.nn.LinearReLUDropout.from_torch(plain[0], plain[2])
    state = torch.get_rng_state()
    assert verify(candidate(plain, fused, torch.randn(7, 30))).passed
    assert fused.p == plain[2].p == 0.5
    assert copy.deepcopy(state).equal(state)
