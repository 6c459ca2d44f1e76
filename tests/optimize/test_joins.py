"""Places where two values meet: found in FX's graphs, one op each, alike in output and gradients."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from support.by_rule import found_out
from torch import Tensor, fx, nn

import fastmodel as fm
from fastmodel.harness.workloads.gpt_model import Gpt, GptConfig, rotary_tables, rotate_half
from fastmodel.optimize import joins

T, D = 6, 8


class Gated(nn.Module):
    """down(act(gate(x)) * up(x))."""

    def __init__(self, act, is_swapped=False):
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(D, D) for _ in range(3))
        self.act, self.is_swapped = act, is_swapped

    def forward(self, x):
        value = self.up(x)
        gate = self.act(self.gate(x))
        return self.down(value * gate if self.is_swapped else gate * value)


class GatedByMethod(Gated):
    def forward(self, x):
        return self.down(self.act(self.gate(x)).mul(self.up(x)))


class Residual(nn.Module):
    """A norm of a sum that is read again."""

    def __init__(self, norm, reads_again=True):
        super().__init__()
        self.linear, self.norm, self.reads_again = nn.Linear(D, D), norm, reads_again

    def forward(self, x):
        total = x + self.linear(x)
        normed = self.norm(total)
        return normed * 2 + total if self.reads_again else normed


class WritesBetween(Residual):
    def forward(self, x):
        total = x + self.linear(x)
        total.mul_(2)
        return self.norm(total) + total


class AddsTwice(Residual):
    def forward(self, x):
        total = torch.add(x, self.linear(x), alpha=2)
        return self.norm(total) + total


class Turned(nn.Module):
    """q and k turned, by slices as transformers does it or by halves."""

    cos: Tensor
    sin: Tensor

    def __init__(self, by_slices, tables=1):
        super().__init__()
        self.query, self.key = nn.Linear(D, D), nn.Linear(D, D)
        self.by_slices, self.tables = by_slices, tables
        for name, table in zip(("cos", "sin"), rotary_tables(T, D // 2), strict=True):
            self.register_buffer(name, table)

    def half(self, x):
        if not self.by_slices:
            return rotate_half(x)
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return torch.cat((-second, first), dim=-1)

    def forward(self, x):
        n, t, _ = x.shape
        q, k = (layer(x).view(n, t, 2, D // 2).transpose(1, 2) for layer in (self.query, self.key))
        cos, sin = self.cos[:t].unsqueeze(0).unsqueeze(1), self.sin[:t].unsqueeze(0).unsqueeze(1)
        other = cos if self.tables == 1 else sin
        q = (q * cos) + (self.half(q) * sin)
        k = (k * other) + (self.half(k) * sin)
        return F.scaled_dot_product_attention(q, k, k, is_causal=True)


class WrittenOut(nn.Module):
    """Llama's RMS norm, as transformers writes it."""

    def __init__(self, eps=1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(D)), eps

    def forward(self, x):
        dtype = x.dtype
        x = x.to(torch.float32)
        variance = x.pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + self.eps)
        return self.weight * x.to(dtype)


class Around(nn.Module):
    """Calls a module, which is none of PyTorch's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


CASES = {
    "swiglu": (lambda: Gated(nn.SiLU()), "swiglu"),
    "swiglu-function": (lambda: Gated(F.silu, True), "swiglu"),
    "swiglu-method": (lambda: GatedByMethod(nn.SiLU()), "swiglu"),
    "geglu": (lambda: Gated(nn.GELU()), "geglu"),
    "geglu-tanh": (lambda: Gated(nn.GELU("tanh"), True), "geglu_tanh"),
    "add-layer-norm": (lambda: Residual(nn.LayerNorm(D)), "add_layer_norm"),
    "add-layer-norm-alone": (lambda: Residual(nn.LayerNorm(D), False), "add_layer_norm"),
    "add-rms-norm": (lambda: Residual(nn.RMSNorm(D, eps=1e-5)), "add_rms_norm"),
    "rope-halves": (lambda: Turned(False), "rope"),
    "rope-slices": (lambda: Turned(True), "rope"),
    "rms-norm": (lambda: Around(WrittenOut()), "rms_norm"),
}
cases = pytest.mark.parametrize(("make", "op"), CASES.values(), ids=CASES)


def replacements(model) -> list[str]:
    names = {op for _, op in CASES.values()}
    return [place.replacement for place in fm.plan_of(model).swaps if place.replacement in names]


def run(model, x):
    x = x.detach().clone().requires_grad_()
    out = model(x)
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    wanted = [x, *model.parameters()]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad)]


def check(model, optimized, x, training=True):
    """Against float64: at most a few times PyTorch's own float32 error, and a rounding of each module's."""
    model.train(training), optimized.train(training)
    exact = run(copy.deepcopy(model).double(), x.double())
    for want, plain, found in zip(exact, run(model, x), run(optimized, x), strict=True):
        scale = want.abs().max().item() or 1.0
        error = lambda value, want=want: (value.double() - want).abs().max().item()  # noqa: E731
        assert error(found) <= 4 * error(plain) + 32 * 2.0**-23 * scale


@cases
def test_output_and_gradients(make, op):
    model, x = make(), torch.randn(2, T, D)
    optimized = fm.optimize(model, x, select="static")
    assert replacements(optimized) == [op]
    assert list(optimized.state_dict()) == list(model.state_dict())
    for training in (True, False):
        check(model, optimized, x, training)


@cases
def test_another_batch_a_copy_and_a_pickle(make, op):
    model = make()
    optimized = fm.optimize(model, torch.randn(2, T, D), select="static")
    x = torch.randn(3, T - 1, D)
    expected = model(x)
    torch.testing.assert_close(optimized(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(optimized)(x), expected, rtol=1e-5, atol=1e-5)
    if "function" not in op and not isinstance(model, Around):
        again = pickle.loads(pickle.dumps(optimized))
        torch.testing.assert_close(again(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WritesBetween(nn.LayerNorm(D)),
        lambda: AddsTwice(nn.LayerNorm(D)),
        lambda: Turned(True, tables=2),
        lambda: Around(WrittenOut(eps=1)),
    ],
    ids=["writes-between", "adds-twice", "two-tables", "eps-of-another-kind"],
)
def test_what_only_looks_alike_is_left(make):
    model, x = make(), torch.randn(2, T, D)
    optimized = fm.optimize(model, x, select="static")
    assert replacements(optimized) == []
    assert not found_out(fm.plan_of(optimized)), "it was taken for one"
    torch.testing.assert_close(optimized(x), model(x))


def test_a_value_read_elsewhere_too_is_no_gate():
    class ReadsTwice(Gated):
        def forward(self, x):
            gate = F.silu(self.gate(x))
            return self.down(gate * self.up(x)) + gate

    model, x = ReadsTwice(None), torch.randn(2, T, D)
    optimized = fm.optimize(model, x, select="static")
    assert replacements(optimized) == []
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_hook_on_the_norm_is_heard():
    model, x = Residual(nn.LayerNorm(D)), torch.randn(2, T, D)
    optimized = fm.optimize(model, x, select="static")
    heard = []
    optimized.norm.register_forward_hook(lambda *_: heard.append(1))
    optimized(x)
    assert heard == [1]


def test_a_parameter_that_is_put_in_is_used():
    model, x = Residual(nn.LayerNorm(D)), torch.randn(2, T, D)
    optimized = fm.optimize(model, x, select="static")
    optimized.norm.weight = nn.Parameter(torch.full((D,), 3.0))
    model.norm.weight = optimized.norm.weight
    torch.testing.assert_close(optimized(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_measured_selection_tries_them(races):
    model, x = Gated(nn.SiLU()), torch.randn(64, T, D)
    optimized = fm.optimize(model, x)
    plan = fm.plan_of(optimized)
    (row,) = [p for p in (*plan.swaps, *plan.left) if p.pattern == "SiLU * value"]
    assert row.verification is not None and row.verification.passed
    assert {check.tensor for check in row.verification.checks} >= {
        "output",
        "gradient of gate.weight",
    }


@pytest.mark.parametrize("is_llama", [False, True], ids=["gpt", "llama"])
def test_the_workloads_models(is_llama):
    config = GptConfig(2, 2, 32, 16, 64, is_llama)
    torch.manual_seed(0)
    model, tokens = Gpt(config), torch.randint(0, 64, (3, 16))
    optimized = fm.optimize(model, tokens, select="static")
    expected = ["add_rms_norm", "rope", "swiglu"] if is_llama else ["add_layer_norm"]
    assert sorted(set(replacements(optimized))) == expected
    assert list(optimized.state_dict()) == list(model.state_dict())
    wide = copy.deepcopy(model).double()
    found = {}
    for name, one in (("exact", wide), ("plain", model), ("ours", optimized)):
        one.zero_grad()
        out = one(tokens)
        out.square().sum().backward()
        found[name] = [out.detach(), *(p.grad.detach().clone() for p in one.parameters())]
    for want, plain, ours in zip(*(found[k] for k in ("exact", "plain", "ours")), strict=True):
        scale = want.abs().max().item()
        error = (ours.double() - want).abs().max().item()
        # A rounding each of the 2 x 12 modules between.
        assert error <= 4 * (plain.double() - want).abs().max().item() + 24 * 2.0**-23 * scale


def test_the_norms_op_needs_a_kernel():
    """Without one the definition would only be a longer way to PyTorch's."""
    model, x = Residual(nn.LayerNorm(D)).half(), torch.randn(2, T, D).half()
    optimized = fm.optimize(model, x, select="static")
    assert replacements(optimized) == []
    (row,) = [p for p in fm.plan_of(optimized).left if p.pattern == "add + LayerNorm"]
    assert "no kernel of add_layer_norm serves it" in row.reason


def test_only_the_ops_that_are_asked_for():
    graph = fx.symbolic_trace(Gated(nn.SiLU())).graph
    owner = Gated(nn.SiLU())
    joins.rewrite(graph, [])
    found = joins.find(graph, owner)
    assert [j.op for j in found] == ["swiglu"]
    joins.rewrite(graph, found)
    assert joins.find(graph, owner) == []
    assert joins.GATES["SiLU"] in [node.target for node in graph.nodes]
