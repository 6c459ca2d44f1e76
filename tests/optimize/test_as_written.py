"""The ops where values meet take what the lines take in whose place they stand: any shapes, any dtypes."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.optimize import as_written

D = 8
DTYPES = (torch.float32, torch.bfloat16, torch.float64)


def check(ours, lines, *args):
    """Outputs alike in shape and dtype; they and the gradients within some roundings of the lowest dtype."""
    tolerance = 8 * max(torch.finfo(a.dtype).eps for a in args)
    found, expected = [], []
    for call, results in ((ours, found), (lines, expected)):
        leaves = [a.detach().clone().requires_grad_(a.requires_grad) for a in args]
        outs = call(*leaves)
        outs = outs if isinstance(outs, tuple) else (outs,)
        results += [out.detach() for out in outs]
        total = sum((out.double() * (i + 1)).cos().sum() for i, out in enumerate(outs))
        results += torch.autograd.grad(total, [leaf for leaf in leaves if leaf.requires_grad])
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        scale = max(1.0, b.abs().max().item())
        torch.testing.assert_close(a, b, rtol=0.0, atol=tolerance * scale)


ACTIVATIONS = {
    "swiglu": F.silu,
    "geglu": F.gelu,
    "geglu_tanh": lambda z: F.gelu(z, approximate="tanh"),
}
SHAPES = [
    ((3, 5, D),) * 2,
    ((3, 5, D), (1, 5, D)),
    ((1, 1, D), (3, 5, 1)),
    ((D,), (3, D)),
    ((3, D), ()),
]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gates_stretch(name, shapes):
    gate, up = (torch.randn(shape, requires_grad=True) for shape in shapes)
    check(getattr(as_written, name), lambda a, b: ACTIVATIONS[name](a) * b, gate, up)


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=2)), ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gates_promote(name, dtypes):
    gate, up = (torch.randn(3, D, dtype=dtype, requires_grad=True) for dtype in dtypes)
    check(getattr(as_written, name), lambda a, b: ACTIVATIONS[name](a) * b, gate, up)


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=2)), ids=str)
def test_rms_norm_promotes(dtypes):
    x = torch.randn(3, D, dtype=dtypes[0], requires_grad=True)
    weight = torch.rand(D, dtype=dtypes[1], requires_grad=True)

    def lines(x, weight):
        wide = x.double()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 0.1)
        return weight * wide.to(x.dtype)

    check(lambda x, weight: as_written.rms_norm(x, (D,), weight, 0.1), lines, x, weight)


@pytest.mark.parametrize("dtypes", list(itertools.product(DTYPES, repeat=3)), ids=str)
def test_rope_promotes(dtypes):
    q = torch.randn(2, 3, 5, D, dtype=dtypes[0], requires_grad=True)
    k = torch.randn(2, 1, 5, D, dtype=dtypes[1], requires_grad=True)
    angles = torch.randn(2, 5, D)
    cos, sin = angles.cos().to(dtypes[2]), angles.sin().to(dtypes[2])

    def half(x):
        return torch.cat((-x[..., D // 2 :], x[..., : D // 2]), dim=-1)

    def lines(q, k, cos, sin):
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return (q * cos) + (half(q) * sin), (k * cos) + (half(k) * sin)

    check(as_written.rope, lines, q, k, cos, sin)


class Norms(nn.Module):
    """RMS norm written out in some way, of a layer's output."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.weight = nn.Linear(D, D), nn.Parameter(torch.rand(D))
        self.how = how

    def forward(self, x):
        x = self.linear(x)
        wide = self.how[0](x)
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * self.how[1](wide, x)


def as_it_is(value, x=None):
    return value


WAYS = {
    "no-cast": (as_it_is, as_it_is),
    "cast": (lambda x: x.to(torch.float32), lambda y, x: y.to(x.dtype)),
    "cast-by-name": (lambda x: x.to(dtype=torch.float32), lambda y, x: y.to(dtype=x.dtype)),
    "cast-as": (lambda x: x.float(), lambda y, x: y.type_as(x)),
    "cast-only-back": (as_it_is, lambda y, x: y.to(x.dtype)),
    "not-cast-back": (lambda x: x.float(), as_it_is),
}


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_a_written_norm_under_autocast(how):
    """It is given what the layer made, in bfloat16; its weight stays in float32."""
    model, x = Norms(how), torch.randn(3, D)
    ours = by_rule(model, x)
    assert [p.replacement for p in fm.plan_of(ours).swaps] == ["rms_norm"]
    torch.testing.assert_close(ours(x), model(x), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = ours(x), model(x)
    assert found.dtype == expected.dtype == torch.float32
    # The lines round to bfloat16 more often, where they do not cast.
    torch.testing.assert_close(found, expected, rtol=4 * 2.0**-8, atol=4 * 2.0**-8)
    assert found.bfloat16().float().ne(found).any()


def test_a_cast_to_another_dtype_is_left():
    how = (as_it_is, lambda y, x: y.to(torch.bfloat16))
    model, x = Norms(how), torch.randn(3, D)
    model.weight = nn.Parameter(model.weight.detach().bfloat16())
    ours = by_rule(model, x)
    assert not fm.plan_of(ours).swaps
    assert ours(x).dtype == torch.bfloat16


class Placed(nn.Module):
    """A gate beside a Parameter without samples."""

    def __init__(self):
        super().__init__()
        self.linear, self.places = nn.Linear(D, D), nn.Parameter(torch.rand(1, 5, D))

    def forward(self, x):
        return F.silu(self.linear(x)) * self.places


def test_a_batch_of_one_among_the_examples():
    model, x = Placed(), torch.randn(1, 5, D)
    ours = by_rule(model, x)
    assert [p.replacement for p in fm.plan_of(ours).swaps] == ["swiglu"]
    more = torch.randn(3, 5, D)
    torch.testing.assert_close(ours(more), model(more))
