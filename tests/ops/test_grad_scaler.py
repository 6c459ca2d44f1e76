"""fm.optim.GradScaler: PyTorch's answers from one read of the gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
from support.optimizers import assert_together, parameters, twins_of
from torch import nn

import fastmodel as fm
from fastmodel import env

pytestmark = pytest.mark.skipif(env.native_missing() is not None, reason="no native kernels")

LR = 0.05
SHAPES = (21,), (5, 2), (70_001,)
KINDS = {
    "adamw": (fm.optim.AdamW, torch.optim.AdamW),
    "sgd": (fm.optim.SGD, torch.optim.SGD),
}


def give_grads(step, scale, *models):
    for i, params in enumerate(zip(*models, strict=True)):
        generator = torch.Generator().manual_seed(100 * step + i)
        grad = torch.randn(params[0].shape, generator=generator) * scale
        for param in params:
            param.grad = grad.to(param.dtype, copy=True)


@pytest.fixture
def calls(monkeypatch):
    """How often the sum of squares and PyTorch's own check were asked for."""
    counts = {"sums": 0, "checks": 0}
    native, check = env.native(), torch._amp_foreach_non_finite_check_and_unscale_

    def square_sum(*args):
        counts["sums"] += 1
        return native.grad_square_sum_cpu(*args)

    def checked(*args):
        counts["checks"] += 1
        return check(*args)

    names = {name: getattr(native, name) for name in dir(native) if not name.startswith("_")}
    stand_in = SimpleNamespace(**{**names, "grad_square_sum_cpu": square_sum})
    monkeypatch.setattr(torch, "_amp_foreach_non_finite_check_and_unscale_", checked)
    with env.native_through(stand_in):
        yield counts


def scaled(scaler):
    """A scaler that has begun: it makes its state in the first use."""
    scaler.scale(torch.ones(()))
    return scaler


@pytest.mark.parametrize("max_grad_norm", [None, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_reads_the_gradients_once(kind, max_grad_norm, calls):
    """Over steps that grow the scale, meet infinities and back off."""
    ours, theirs = KINDS[kind]
    params = parameters(*SHAPES)
    twins = twins_of(params)
    optimizers = ours(params, lr=LR, max_grad_norm=max_grad_norm), theirs(twins, lr=LR)
    options = {"init_scale": 8.0, "growth_interval": 2}
    scalers = (
        scaled(fm.optim.GradScaler("cpu", **options)),
        scaled(torch.amp.GradScaler("cpu", **options)),
    )
    scales = []
    for step in range(7):
        give_grads(step, scalers[1].get_scale(), params, twins)
        if step in (2, 5):
            params[step // 2].grad.view(-1)[-1] = twins[step // 2].grad.view(-1)[-1] = math.inf
        before = dict(calls)
        scalers[0].step(optimizers[0])
        assert calls == {"sums": before["sums"] + 1, "checks": before["checks"]}
        scalers[1].unscale_(optimizers[1])
        if max_grad_norm is not None:
            nn.utils.clip_grad_norm_(twins, max_grad_norm)
        scalers[1].step(optimizers[1])
        for scaler in scalers:
            scaler.update()
        scales.append(scalers[0].get_scale())
        assert scales[-1] == scalers[1].get_scale()
    assert set(scales) == {8.0, 16.0}
    assert_together(params, twins, 5)


@pytest.mark.parametrize("place", [0, 20, 21, 30, 31, 70_031])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_finds_every_infinity(value, place):
    params = parameters(*SHAPES)
    before = [param.detach().clone() for param in params]
    give_grads(0, 1.0, params)
    flat = torch.cat([param.grad.flatten() for param in params])
    flat[place] = value
    for param, grad in zip(params, flat.split([p.numel() for p in params]), strict=True):
        param.grad = grad.view(param.shape)
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=4.0))
    scaler.step(fm.optim.SGD(params, lr=LR))
    scaler.update()
    assert scaler.get_scale() == 2.0
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_the_largest_finite_gradient_is_none():
    params = parameters(*SHAPES)
    for param in params:
        param.grad = torch.full_like(param, torch.finfo(torch.float32).max)
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=4.0))
    scaler.step(fm.optim.SGD(params, lr=1e-38))
    scaler.update()
    assert scaler.get_scale() == 4.0


def test_two_optimizers_and_another_library(calls):
    """Each is looked at alone; what is not ours goes PyTorch's way; one infinity backs off for all."""
    first, second, third = (parameters((5,)) for _ in range(3))
    give_grads(0, 2.0, first, second, third)
    second[0].grad[3] = math.nan
    before = [p[0].detach().clone() for p in (first, second, third)]
    optimizers = (
        fm.optim.SGD(first, lr=LR),
        fm.optim.Adam(second, lr=LR),
        torch.optim.SGD(third, lr=LR),
    )
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=2.0))
    for optimizer in optimizers:
        scaler.step(optimizer)
    scaler.update()
    assert calls == {"sums": 2, "checks": 1}
    moved = [not torch.equal(p[0], q) for p, q in zip((first, second, third), before, strict=True)]
    assert moved == [True, False, True] and scaler.get_scale() == 1.0
    torch.testing.assert_close(first[0], third[0])


def test_unscaled_by_hand(calls):
    """After `unscale_` nothing is looked at again but for the norm."""
    params = parameters(*SHAPES)
    twins = twins_of(params)
    give_grads(0, 4.0, params)
    give_grads(0, 1.0, twins)
    optimizer = fm.optim.SGD(params, lr=LR, max_grad_norm=0.5)
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=4.0))
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    assert calls == {"sums": 1, "checks": 1}
    nn.utils.clip_grad_norm_(twins, 0.5)
    torch.optim.SGD(twins, lr=LR).step()
    assert_together(params, twins, 1)


@pytest.mark.parametrize(
    "kind, optimizer",
    [("float64", "sgd"), ("sparse", "sgd"), ("library", "sgd"), ("library", "adamw")],
)
def test_what_pytorch_steps_it_checks(kind, optimizer, calls):
    ours, theirs = KINDS[optimizer]
    if kind == "sparse":
        params = [nn.Parameter(torch.ones(6, 2))]
        params[0].grad = torch.eye(6)[:, :2].to_sparse() * 2.0
    else:
        params = parameters((6,), dtype=torch.float64 if kind == "float64" else torch.float32)
        give_grads(0, 2.0, params)
    twins = twins_of(params)
    twins[0].grad = params[0].grad / 2.0
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=2.0))
    with fm.use_backend("library" if kind == "library" else None):
        scaler.step(ours(params, lr=LR))
    assert calls == {"sums": 0, "checks": 1}
    theirs(twins, lr=LR).step()
    torch.testing.assert_close(params[0], twins[0])


def test_a_hook_that_changes_gradients_has_them_summed_again(calls):
    params = parameters(*SHAPES)
    twins = twins_of(params)
    give_grads(0, 2.0, params)
    give_grads(0, 3.0, twins)
    optimizer = fm.optim.SGD(params, lr=LR, max_grad_norm=0.5)

    def triple(*_):
        for param in params:
            param.grad.mul_(3.0)

    optimizer.register_step_pre_hook(triple)
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=2.0))
    scaler.step(optimizer)
    assert calls["sums"] == 2
    nn.utils.clip_grad_norm_(twins, 0.5)
    torch.optim.SGD(twins, lr=LR).step()
    assert_together(params, twins, 1)


def test_sums_serve_one_step_alone():
    """The second step meets other gradients."""
    params = parameters(*SHAPES)
    twins = twins_of(params)
    optimizer = fm.optim.SGD(params, lr=LR, max_grad_norm=0.5)
    plain = torch.optim.SGD(twins, lr=LR)
    scaler = scaled(fm.optim.GradScaler("cpu", init_scale=1.0))
    for step in range(2):
        give_grads(step, 10.0**step, params, twins)
        if step == 0:
            scaler.step(optimizer)
        else:
            optimizer.step()
        nn.utils.clip_grad_norm_(twins, 0.5)
        plain.step()
    assert_together(params, twins, 2)


def test_state_dict_is_pytorchs():
    ours, theirs = fm.optim.GradScaler("cpu"), torch.amp.GradScaler("cpu", init_scale=3.0)
    ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict() == theirs.state_dict() and scaled(ours).get_scale() == 3.0


def test_no_gradients_at_all():
    """As PyTorch's: there is nothing to step, and update says so."""
    scaler = scaled(fm.optim.GradScaler("cpu"))
    scaler.step(fm.optim.SGD(parameters((3,)), lr=LR))
    with pytest.raises(AssertionError, match="No inf checks"):
        scaler.update()
