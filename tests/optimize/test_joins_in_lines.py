"""Places where values meet that have lines in common, lines between, or only something of the kind."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from support.by_rule import by_rule, found_out
from torch import nn

import fastmodel as fm

T, D = 6, 8
JOINED = ("add_layer_norm", "add_rms_norm", "rms_norm", "rope", "swiglu", "geglu", "geglu_tanh")


class Lines(nn.Module):
    """A forward of these lines, and what they may be of."""

    def __init__(self, lines):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(D, D) for _ in range(4))
        self.norm, self.other_norm, self.half_norm = map(nn.LayerNorm, (D, D, D // 2))
        self.weight, self.places = nn.Parameter(torch.rand(D)), nn.Parameter(torch.rand(T, D))
        self.lines = lines

    def forward(self, x):
        return self.lines(self, x)

    def heads(self, x):
        return x.view(x.shape[0], x.shape[1], 2, D // 2).transpose(1, 2)

    def half(self, x):
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return torch.cat((-second, first), dim=-1)


def tables(x):
    """cos and sin for x's heads."""
    angles = x.detach()[:, :, : D // 2]
    return angles.cos().unsqueeze(1), angles.sin().unsqueeze(1)


def joined(model) -> list[str]:
    """The ops of ours where values meet."""
    return sorted(p.replacement for p in fm.plan_of(model).swaps if p.replacement in JOINED)


def passes(model, x):
    """Output and every gradient."""
    x = x.detach().clone().requires_grad_()
    out = model(x)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    wanted = [x, *model.parameters()]
    found = torch.autograd.grad(out, wanted, grad, allow_unused=True, materialize_grads=True)
    return [out.detach(), *found]


def check(model, ours, x):
    """Against float64: a few times PyTorch's own error, and a rounding for each of some lines between."""
    exact = passes(copy.deepcopy(model).double(), x.double())
    for want, plain, found in zip(exact, passes(model, x), passes(ours, x), strict=True):
        scale = want.abs().max().item() or 1.0
        error = (found.double() - want).abs().max().item()
        allowed = 4 * (plain.double() - want).abs().max().item() + 64 * 2.0**-23 * scale
        assert error <= allowed


def two_norms_of_a_sum(self, x):
    total = x + self.a(x)
    return self.norm(total) * 2 + self.other_norm(total)


def gate_of_a_norm(self, x):
    total = x + self.a(x)
    return F.silu(self.norm(total)) * self.b(x) + total


def gate_beside_a_norm(self, x):
    normed = self.norm(x + self.a(x))
    return F.silu(self.b(normed)) * normed


def gate_beside_a_sum(self, x):
    total = x + self.a(x)
    return F.silu(self.b(self.norm(total))) * total


def gate_of_a_gate(self, x):
    value = F.silu(self.a(x)) * self.b(x)
    return F.silu(value) * self.c(x)


def gate_of_two_gates(self, x):
    return F.silu(self.a(x)) * F.silu(self.b(x))


def norm_of_gates(self, x):
    gate, other = F.silu(self.a(x)) * self.b(x), F.silu(self.c(x)) * self.d(x)
    total = gate + other
    return self.norm(total) + total


def norm_of_three(self, x):
    total = x + self.a(x) + self.b(x)
    return self.norm(total) + total


def norm_of_what_stretches(self, x):
    total = self.weight + self.a(x)
    return self.norm(total) + total


def norm_of_a_value_and_itself(self, x):
    value = self.a(x)
    total = value + value
    return self.norm(total) + total


def rope_of_norms(self, x):
    a, b, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    q, k = self.half_norm(a + b), self.half_norm(a + 2 * b)
    return ((q * cos) + (self.half(q) * sin)) - ((k * cos) + (self.half(k) * sin))


def norm_of_rope(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    q, k = (q * cos) + (self.half(q) * sin), (k * cos) + (self.half(k) * sin)
    return self.half_norm(q) * k


def gate_of_rope(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    q, k = (q * cos) + (self.half(q) * sin), (k * cos) + (self.half(k) * sin)
    return F.silu(q) * k


def written_norm_of_a_gate(self, x):
    value = F.silu(self.a(x)) * self.b(x)
    return self.weight * (value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-5))


MEETING = {
    two_norms_of_a_sum: ["add_layer_norm"],
    gate_of_a_norm: ["add_layer_norm", "swiglu"],
    gate_beside_a_norm: ["add_layer_norm", "swiglu"],
    gate_beside_a_sum: ["add_layer_norm", "swiglu"],
    gate_of_a_gate: ["swiglu"],
    gate_of_two_gates: ["swiglu"],
    norm_of_gates: ["add_layer_norm", "swiglu"],
    norm_of_three: ["add_layer_norm"],
    norm_of_what_stretches: ["add_layer_norm"],
    norm_of_a_value_and_itself: ["add_layer_norm"],
    rope_of_norms: ["add_layer_norm", "rope"],
    norm_of_rope: ["rope"],
    gate_of_rope: ["rope", "swiglu"],
    written_norm_of_a_gate: ["rms_norm", "swiglu"],
}
by_name = {"ids": lambda value: getattr(value, "__name__", "")}


@pytest.mark.parametrize(("lines", "expected"), MEETING.items(), **by_name)
def test_places_with_lines_in_common(lines, expected):
    model, x = Lines(lines), torch.randn(2, T, D)
    ours = by_rule(model, x)
    assert joined(ours) == expected
    for training in (True, False):
        check(model.train(training), ours.train(training), x)
    check(model, ours, torch.randn(3, T - 1, D))


def clamps_a_gate(self, x):
    value = self.a(x)
    gate = F.silu(value)
    value.clamp_(max=9)
    return gate * self.b(x)


def clamps_q(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    turned = (q * cos) + (self.half(q) * sin)
    q.clamp_(max=9)
    return turned + ((k * cos) + (self.half(k) * sin))


def clamps_between_halves(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    first = q * cos
    q.clamp_(max=9)
    return (first + (self.half(q) * sin)) + ((k * cos) + (self.half(k) * sin))


def clamps_a_table(self, x):
    q, k, table = self.heads(self.a(x)), self.heads(self.b(x)), x[..., : D // 2] * 2
    cos, sin = table.unsqueeze(1), table.sin().unsqueeze(1)
    turned = (q * cos) + (self.half(q) * sin)
    table.clamp_(max=9)
    return turned - ((k * cos) + (self.half(k) * sin))


def clamps_a_written_norm(self, x):
    value = self.a(x)
    normed = value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-5)
    value.clamp_(max=9)
    return self.weight * normed


def clamps_a_cast(self, x):
    value = self.a(x)
    wide = value.to(torch.float32)
    value.clamp_(max=9)
    normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
    return self.weight * normed.to(value.dtype)


def clamps_a_sum(self, x):
    total = x + self.a(x)
    torch.ops.aten.clamp_.default(total, None, 9)
    return self.norm(total) + total


WRITING = [
    clamps_a_gate,
    clamps_q,
    clamps_between_halves,
    clamps_a_table,
    clamps_a_written_norm,
    clamps_a_cast,
    clamps_a_sum,
]


@pytest.mark.parametrize("lines", WRITING, **by_name)
def test_a_write_between_that_no_example_shows(lines):
    """It clamps what is large; the examples are not, so that their numbers are right."""
    model, x = Lines(lines).requires_grad_(False), torch.randn(2, T, D)  # or it has no backward
    ours = by_rule(model, x)
    assert joined(ours) == [] and not found_out(fm.plan_of(ours))
    torch.testing.assert_close(ours(100 * x), model(100 * x))


def columns(self, x):
    value = self.heads(self.a(x))[..., 0]
    crossed = torch.cat((-value[..., 1], value[..., 0]), -1)
    return (crossed * crossed.cos()) + (crossed * crossed.sin())


def rows(self, x):
    value = self.heads(self.a(x))
    crossed = torch.cat((-value[..., T // 2 :, :], value[..., : T // 2, :]), dim=-1)
    return (crossed * crossed.cos()) + (crossed * crossed.sin())


def strides(self, x):
    value = torch.cat((self.a(x), self.b(x)), dim=-1)
    crossed = torch.cat((-value[..., D::2], value[..., :D:2]), dim=-1)
    return (x * x.cos()) + (crossed * x.sin())


def all_of_it(self, x):
    value = self.a(x)[..., : D // 2]
    crossed = torch.cat((-value[...], value[...]), -1)
    return (x * x.cos()) + (crossed * x.sin())


def negative_by_name(self, x):
    value = self.a(x)
    first, second = value[..., : D // 2], value[..., D // 2 :]
    return (value * x) + (torch.cat((torch.neg(input=second), first), dim=-1) * x)


def chunks_by_name(self, x):
    value = self.a(x)
    first, second = torch.chunk(input=value, chunks=2, dim=-1)
    return (value * x) + (torch.cat((-second, first), dim=-1) * x)


def mean_by_name(self, x):
    mean = torch.mean(input=x * x, dim=-1, keepdim=True)
    return self.weight * (self.a(x) * torch.rsqrt(mean + 1e-5))


def root_by_name(self, x):
    mean = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (self.a(x) * torch.rsqrt(input=mean + 1e-5))


def half_of_a_buffer(self, x):
    value = self.a(x)
    return (value * x) + (torch.cat((-value[..., self.cut // 2 :], value[..., :4]), dim=-1) * x)


def shape_of_the_sum(self, x):
    total = x + self.a(x)
    return torch.layer_norm(total, (total.shape[-1],)) + total


def another_mean(self, x):
    return self.weight * (x * torch.rsqrt(self.a(x).pow(2).mean(-1, keepdim=True) + 1e-5))


def mean_of_all(self, x):
    value = self.a(x)
    return self.weight * (value * torch.rsqrt(value.pow(2).mean((-1, -2), keepdim=True) + 1e-5))


def cube(self, x):
    value = self.a(x).abs()
    return self.weight * (value * torch.rsqrt(value.pow(3).mean(-1, keepdim=True) + 1e-5))


def eps_of_a_tensor(self, x):
    value = self.a(x)
    mean = value.pow(2).mean(-1, keepdim=True)
    return self.weight * (value * torch.rsqrt(mean + self.weight[:1]))


def weight_of_two_dimensions(self, x):
    value = self.a(x)
    return self.places * (value * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-5))


def means_beside_columns(self, x):
    """As many rows as columns: shapes do not tell which is which."""
    value = self.a(x).flatten(0, 1)[:D]
    return self.weight * (value * torch.rsqrt(value.pow(2).mean(-1) + 1e-5))


def first_half_negative(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    turned = []
    for value in (q, k):
        first, second = value.chunk(2, -1)
        turned.append((value * cos) + (torch.cat((-first, second), dim=-1) * sin))
    return turned[0] + turned[1]


def quarters(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    turned = []
    for value in (q, k):
        parts = value.chunk(4, -1)
        crossed = torch.cat((-parts[1], parts[0]), dim=-1)
        turned.append((value * cos) + (torch.cat((crossed, crossed), dim=-1) * sin))
    return turned[0] + turned[1]


def another_dimension(self, x):
    """Halves of one element each, one below the other: they stretch."""
    pairs = (layer(x)[:, :1, :2].unsqueeze(1) for layer in (self.a, self.b))
    cos, sin = x[:, :1, :2].cos().unsqueeze(1), x[:, :1, :2].sin().unsqueeze(1)
    turned = []
    for value in pairs:
        crossed = torch.cat((-value[..., 1:], value[..., :1]), dim=-2)
        turned.append((value * cos) + (crossed * sin))
    return turned[0] + turned[1]


def minus(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    return ((q * cos) - (self.half(q) * sin)) + ((k * cos) - (self.half(k) * sin))


def another_value_turned(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    return ((q * cos) + (self.half(k) * sin)) + ((k * cos) + (self.half(q) * sin))


def halves_of_two_values(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    turned = []
    for value, other in ((q, k), (k, q)):
        crossed = torch.cat((-other.chunk(2, -1)[1], value.chunk(2, -1)[0]), dim=-1)
        turned.append((value * cos) + (crossed * sin))
    return turned[0] + turned[1]


def slices_of_two_values(self, x):
    q, k, (cos, sin) = self.heads(self.a(x)), self.heads(self.b(x)), tables(x)
    turned = []
    for value, other in ((q, k), (k, q)):
        half = value.shape[-1] // 2
        crossed = torch.cat((-other[..., half:], value[..., :half]), dim=-1)
        turned.append((value * cos) + (crossed * sin))
    return turned[0] + turned[1]


def read_between(self, x):
    """What is turned first is read before the other is: there is no one place for both."""
    q, (cos, sin) = self.heads(self.a(x)), tables(x)
    q = (q * cos) + (self.half(q) * sin)
    k = q + 1
    return q + ((k * cos) + (self.half(k) * sin))


def an_activation_of_a_product(self, x):
    return F.silu(self.a(x) * self.b(x))


def a_gate_times_a_number(self, x):
    return self.b(F.silu(self.a(x)) * 2)


def a_gate_times_itself(self, x):
    gate = F.silu(self.a(x))
    return gate * gate


def difference(self, x):
    return self.norm(x - self.a(x))


def sum_of_a_number(self, x):
    return self.norm(self.a(x) + 1.0)


def augmented(self, x):
    total = kept = self.a(x)
    total += self.b(x)
    return self.norm(total) + kept.detach()


ALIKE = [
    columns,
    rows,
    strides,
    all_of_it,
    negative_by_name,
    chunks_by_name,
    mean_by_name,
    root_by_name,
    half_of_a_buffer,
    shape_of_the_sum,
    another_mean,
    mean_of_all,
    cube,
    eps_of_a_tensor,
    weight_of_two_dimensions,
    means_beside_columns,
    first_half_negative,
    quarters,
    another_dimension,
    minus,
    another_value_turned,
    halves_of_two_values,
    slices_of_two_values,
    read_between,
    an_activation_of_a_product,
    a_gate_times_a_number,
    a_gate_times_itself,
    difference,
    sum_of_a_number,
    augmented,
]


@pytest.mark.parametrize("lines", ALIKE, **by_name)
def test_what_only_looks_alike_is_left(lines):
    model, x = Lines(lines), torch.randn(2, T, D)
    model.cut = D
    ours = by_rule(model, x)
    assert joined(ours) == [] and not found_out(fm.plan_of(ours))
    assert not [p for p in fm.plan_of(ours).left if "not held" in p.reason]
    torch.testing.assert_close(ours(x), model(x), rtol=1e-4, atol=1e-5)


def heads_after_length(self, x):
    """As many heads as positions: shapes do not tell which is which."""
    q, k = (layer(x)[:, :2].view(x.shape[0], 2, 2, D // 2) for layer in (self.a, self.b))
    angles = x.detach()[:, :2, : D // 2]
    cos, sin = angles.cos().unsqueeze(2), angles.sin().unsqueeze(2)
    return ((q * cos) + (self.half(q) * sin)) + ((k * cos) + (self.half(k) * sin))


def test_tables_for_another_order_of_dimensions():
    model, x = Lines(heads_after_length), torch.randn(2, T, D)
    ours = by_rule(model, x)
    assert joined(ours) == [] and not found_out(fm.plan_of(ours))
    torch.testing.assert_close(ours(x), model(x))


def silu_in_place(self, x):
    value = self.a(x)
    return F.silu(value, inplace=True) * self.b(x) + value.detach()


def module_in_place(self, x):
    value = self.a(x)
    return self.act(value) * self.b(x) + value.detach()


@pytest.mark.parametrize("lines", [silu_in_place, module_in_place], **by_name)
def test_an_activation_in_place_is_no_gate(lines):
    """Its line writes, too, to what it is applied to."""
    model, x = Lines(lines), torch.randn(2, T, D)
    model.act = nn.SiLU(inplace=True)
    ours = by_rule(model, x)
    assert joined(ours) == [] and not found_out(fm.plan_of(ours))
    torch.testing.assert_close(ours(x), model(x), rtol=1e-4, atol=1e-5)


def gate_of_a_module(self, x):
    return self.act(self.a(x)) * self.b(x)


def norm_of_a_sum(self, x):
    return self.norm(x + self.a(x))


@pytest.mark.parametrize(
    ("lines", "name", "module"),
    [
        (gate_of_a_module, "act", nn.SiLU()),
        (gate_of_a_module, "act", nn.GELU()),
        (gate_of_a_module, "act", nn.GELU("tanh")),
        (norm_of_a_sum, "norm", nn.LayerNorm(D)),
        (norm_of_a_sum, "norm", nn.RMSNorm(D)),
    ],
    ids=lambda value: str(value) if isinstance(value, nn.Module) else "",
)
def test_a_module_with_a_hook_is_not_taken(lines, name, module):
    model, x = Lines(lines), torch.randn(2, T, D)
    setattr(model, name, module)
    assert len(joined(by_rule(model, x))) == 1
    heard = []
    module.register_forward_hook(lambda *_: heard.append(1))
    ours = by_rule(model, x)
    assert joined(ours) == [] and not found_out(fm.plan_of(ours))
    heard.clear()
    torch.testing.assert_close(ours(x), model(x))
    assert heard == [1, 1]


class GivenMean(Lines):
    def forward(self, x, mean):
        return self.weight * (self.a(x) * torch.rsqrt(mean + 1e-5))


class GivenRsqrt(Lines):
    def forward(self, x, rsqrt):
        return self.weight * (self.a(x) * rsqrt)


class GivenFloat(Lines):
    def forward(self, x, float):
        return self.weight * float * self.a(x)


class GivenChunk(Lines):
    def forward(self, x, chunk):
        x = self.half_norm(x)
        return (x * x) + (torch.cat((-chunk[1], chunk[0]), dim=-1) * x)


@pytest.mark.parametrize("kind", [GivenMean, GivenRsqrt, GivenFloat, GivenChunk])
def test_an_argument_by_the_name_of_a_method(kind):
    model, given = kind(None), (torch.randn(2, T, D), torch.rand(2, T, D))
    if kind is GivenChunk:
        given = (given[0][..., : D // 2], torch.rand(2, T, D // 4))
    ours = by_rule(model, given)
    assert joined(ours) == []
    torch.testing.assert_close(ours(*given), model(*given), rtol=1e-4, atol=1e-5)


class Author(nn.Module):
    """A layer that is none of PyTorch's own, an adapter for instance."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(D, D)

    def forward(self, x):
        return self.base(x) * 2


def a_gate_of_authors(self, x):
    return self.c(F.silu(self.a(x)) * self.b(x))


def a_sum_beside_authors(self, x):
    total = x + self.a(x)
    beside = self.b(x)
    return self.norm(total) + beside


@pytest.mark.parametrize(
    ("lines", "expected"),
    [(a_gate_of_authors, ["swiglu"]), (a_sum_beside_authors, ["add_layer_norm"])],
    **by_name,
)
def test_layers_of_authors_between(lines, expected):
    model, x = Lines(lines), torch.randn(2, T, D)
    model.a, model.b = Author(), Author()
    ours = by_rule(model, x)
    assert joined(ours) == expected
    check(model, ours, x)
