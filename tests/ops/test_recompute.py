"""fm.recompute_activations: the same gradients from less that is held."""

import contextlib
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastmodel as fm
from fastmodel.ops import norm_op, recompute

WIDTH, HIDDEN, ROWS = 96, 160, 48


class Block(nn.Module):
    """Every maker of an output that need not be held, each read by a linear layer."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        options = {"dtype": dtype}
        self.norm = fm.nn.LayerNorm(WIDTH, **options)
        self.up = fm.nn.LinearGELU(WIDTH, HIDDEN, **options)
        self.down = nn.Linear(HIDDEN, WIDTH, **options)
        self.rms = fm.nn.RMSNorm(WIDTH, **options)
        self.silu = fm.nn.LinearSiLU(WIDTH, HIDDEN, **options)
        self.gate = fm.nn.Linear(HIDDEN, WIDTH, **options)
        self.last = fm.nn.Linear(WIDTH, WIDTH, bias=False, **options)

    def forward(self, x):
        y = self.down(self.up(self.norm(x)))
        y, x = fm.functional.add_layer_norm(y, x, (WIDTH,), self.norm.weight, self.norm.bias)
        y = self.gate(self.silu(self.rms(y)))
        y, x = fm.functional.add_rms_norm(y, x, (WIDTH,), self.rms.weight)
        y = self.last(fm.functional.swiglu(self.last(y), x))
        y = self.last(fm.functional.geglu(y, x))
        return self.last(fm.functional.geglu_tanh(y, x)) + x


MADE_AGAIN = 7 * WIDTH + 2 * HIDDEN
"""Of a row: four norms and three gates of WIDTH, two activations of HIDDEN."""


def gradients(call, tensors, inside=True, autocast=None):
    """Of a sum of call(), and what the region says."""
    region = fm.recompute_activations() if inside else contextlib.nullcontext()
    with region as found, torch.autocast("cpu", autocast, enabled=autocast is not None):
        out = call()
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
    return [out, *torch.autograd.grad(out, tensors, grad)], found


def batch(dtype=torch.float32):
    return torch.randn(ROWS, WIDTH, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_same_gradients(dtype, backend):
    block, x = Block(dtype), batch(dtype)
    tensors = [x, *block.parameters()]
    with fm.use_backend(backend):
        held, _ = gradients(lambda: block(x), tensors, inside=False)
        made, region = gradients(lambda: block(x), tensors)
    eps = torch.finfo(dtype).eps
    for a, b in zip(made, held, strict=True):
        # An activation is taken of its rounded argument: a rounding of what a sum of ROWS terms is made of.
        torch.testing.assert_close(a, b, rtol=0, atol=8 * eps * b.abs().max().item())
    itemsize = torch.finfo(dtype).bits // 8
    assert region.spared_bytes == ROWS * MADE_AGAIN * itemsize


def test_norms_and_gates_to_the_bit():
    norm, x = fm.nn.LayerNorm(512), torch.randn(300, 512, requires_grad=True)
    weight = torch.randn(64, 512, requires_grad=True)

    def call():
        y = norm(x)
        return F.linear(fm.functional.swiglu(y, x), weight) + F.linear(y, weight)

    tensors = [x, weight, *norm.parameters()]
    held, made = (gradients(call, tensors, inside)[0] for inside in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(held, made, strict=True))


@pytest.mark.parametrize("linear", [F.linear, fm.functional.linear], ids=["torch", "fastmodel"])
def test_through_casts_and_views(linear):
    """Under autocast a layer reads a cast of what the norm gave; on more than two dimensions a view."""
    x = torch.randn(2, 150, 256, requires_grad=True)
    weight, bias = torch.randn(32, 256, requires_grad=True), torch.randn(32, requires_grad=True)

    def call():
        y = fm.functional.rms_norm(x, (256,))
        return linear(y.view(3, 100, 256), weight, bias)

    held, _ = gradients(call, [x, weight, bias], inside=False, autocast=torch.bfloat16)
    made, region = gradients(call, [x, weight, bias], autocast=torch.bfloat16)
    assert all(torch.equal(a, b) for a, b in zip(held, made, strict=True))
    assert region.spared_bytes == 2 * x.numel()


def test_a_norm_that_autocast_takes_in_float32():
    """As it does on CUDA alone: what is normalised again is what came, in the dtype of what went out."""
    x, weight = torch.randn(300, 512).bfloat16(), torch.randn(512)
    again = norm_op._normalised("rms_norm", torch.float32, (1, 1e-5), x, weight)
    assert torch.equal(again, fm.functional.rms_norm(x.float(), (512,), weight, 1e-5))


def test_what_is_spared_is_let_go():
    """The activation lives no longer than forward; without the region until backward."""
    up, down = fm.nn.LinearGELU(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
    for inside in (False, True):
        region = fm.recompute_activations() if inside else contextlib.nullcontext()
        with region:
            activation = up(batch())
            alive = weakref.ref(activation.untyped_storage())
            out = down(activation)
        del activation
        gc.collect()
        assert (alive() is None) == inside
        out.sum().backward()


def test_a_region_that_has_ended_holds_nothing():
    up, down, x = fm.nn.LinearGELU(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH), batch()
    alive = weakref.ref(x.untyped_storage())
    with fm.recompute_activations() as region:
        assert recompute.is_on()
        out = down(up(x))
    assert not recompute.is_on()
    del out, x
    gc.collect()
    assert alive() is None and region.spared_bytes


def test_neighbours_that_are_one_node_elsewhere():
    chain = fm.nn.Sequential(fm.nn.LinearGELU(WIDTH, HIDDEN), fm.nn.LinearReLU(HIDDEN, WIDTH))
    x = batch()
    tensors = [x, *chain.parameters()]
    held, _ = gradients(lambda: chain(x), tensors, inside=False)
    made, region = gradients(lambda: chain(x), tensors)
    assert region.spared_bytes == 4 * ROWS * HIDDEN
    for a, b in zip(made, held, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_an_optimized_model():
    model = nn.Sequential(
        nn.LayerNorm(WIDTH), nn.Linear(WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 8)
    )
    x = torch.randn(2048, WIDTH)
    fused = fm.optimize(model, x, select="static")
    tensors = list(fused.parameters())
    held, _ = gradients(lambda: model(x), tensors, inside=False)
    made, region = gradients(lambda: fused(x), tensors)
    assert region.spared_bytes == 4 * len(x) * (WIDTH + HIDDEN)
    for a, b in zip(made, held, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


def test_backward_twice_and_second_derivatives():
    up, down = fm.nn.LinearGELU(6, 5, dtype=torch.float64), nn.Linear(5, 3, dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    with fm.recompute_activations():
        out = down(up(x)).square().sum()
    first, second = (torch.autograd.grad(out, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)

    def call(x):
        with fm.recompute_activations():
            return down(up(x))

    torch.autograd.gradcheck(call, x)
    torch.autograd.gradgradcheck(call, x)


def test_only_forward_inside_counts():
    """Outside, and in other threads' regions, nothing is offered; a region ends where its block does."""
    up, down = fm.nn.LinearGELU(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
    activation = up(batch())
    with fm.recompute_activations() as region:
        down(activation)
    assert region.spared_bytes == 0
    with fm.recompute_activations() as region:
        activation = up(batch())
    down(activation)
    assert region.spared_bytes == 0
    with fm.recompute_activations() as region, torch.no_grad():
        down(up(batch()))
    assert region.spared_bytes == 0


def test_what_is_changed_in_place_is_not_made_again():
    """In between, it is another tensor's value that the layer reads."""
    norm, down = fm.nn.RMSNorm(512), nn.Linear(512, 8)
    x = torch.randn(300, 512)

    def call():
        y = norm(x)
        y.mul_(2.0)
        return down(y)

    tensors = [norm.weight, down.weight]
    held, _ = gradients(call, tensors, inside=False)
    made, region = gradients(call, tensors)
    assert region.spared_bytes == 0
    assert all(torch.equal(a, b) for a, b in zip(held, made, strict=True))


def test_errors_of_changes_in_place():
    """What autograd would have noticed is noticed: of what is held, and of what is to be made again."""
    norm, down = fm.nn.RMSNorm(512), nn.Linear(512, 8)
    x = torch.randn(300, 512)
    with fm.recompute_activations():
        out = down(norm(x))
    x.zero_()
    with pytest.raises(RuntimeError, match=r"recompute_activations: .* changed in place"):
        out.sum().backward()
    hidden = torch.randn(300, 512)
    with fm.recompute_activations():
        out = down(hidden)
    hidden.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_other_uses_of_the_values_hold_them():
    """What is no whole view: a part, a transpose, a sum."""
    norm, x = fm.nn.RMSNorm(512), torch.randn(300, 512)
    weight = torch.randn(8, 512, requires_grad=True)

    def call():
        y = norm(x)
        return F.linear(y[:, :].t().t()[1:], weight) + F.linear(y + 1, weight)[1:]

    tensors = [norm.weight, weight]
    held, _ = gradients(call, tensors, inside=False)
    made, region = gradients(call, tensors)
    assert region.spared_bytes == 0
    assert all(torch.equal(a, b) for a, b in zip(held, made, strict=True))


def test_a_compiled_model_inside():
    block, x = Block(), batch()
    compiled = torch.compile(block, backend="aot_eager")
    tensors = [x, *block.parameters()]
    held, _ = gradients(lambda: block(x), tensors, inside=False)
    made, _ = gradients(lambda: compiled(x), tensors)
    for a, b in zip(made, held, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_backend_asked_for_by_name_makes_it_again(monkeypatch):
    norm, down = fm.nn.RMSNorm(512), nn.Linear(512, 8)
    seen = []
    honest = fm.ops.dispatch.run

    def run(op, pass_, *args):
        seen.append((op, pass_, fm.ops.dispatch.requested()))
        return honest(op, pass_, *args)

    with fm.recompute_activations(), fm.use_backend("reference"):
        out = down(norm(torch.randn(300, 512)))
    monkeypatch.setattr(fm.ops.dispatch, "run", run)
    out.sum().backward()
    assert ("rms_norm", "forward", "reference") in seen
