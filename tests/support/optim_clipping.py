"""Clipping by the global norm and GradScaler, folded into the step of every drop-in optimizer."""

from __future__ import annotations

import copy
import math
import pickle

import torch
from torch import nn

import fastmodel as fm
from support.optimizers import (
    LR,
    assert_together,
    give_grads,
    parameters,
    randn,
    twins_of,
)


def check_max_grad_norm(opt, max_grad_norm, dtype) -> None:
    """As clip_grad_norm_ over all groups and a step; `.grad` stays as it was."""
    params = parameters((50,), (3, 3), (), (8,), dtype=dtype)
    twins = twins_of(params)

    def groups(model):
        return [{"params": model[:2]}, {"params": model[2:], "lr": LR / 2}]

    ours = opt.make(groups(params), max_grad_norm=max_grad_norm, **opt.full)
    plain = opt.plain(groups(twins), **opt.full)
    for step in range(4):
        give_grads(step, params, twins)
        params[3].grad = twins[3].grad = None
        kept = [None if p.grad is None else p.grad.clone() for p in params]
        ours.step()
        torch.nn.utils.clip_grad_norm_(twins, max_grad_norm)
        plain.step()
        for p, grad in zip(params, kept, strict=True):
            assert p.grad is None if grad is None else torch.equal(p.grad, grad)
    # PyTorch rounds the clipped gradient and every intermediate of its step to bfloat16.
    assert_together(params, twins, 4 if dtype == torch.float32 else 8, dtype)
    twin = pickle.loads(pickle.dumps(ours))
    assert twin.max_grad_norm == copy.deepcopy(ours).max_grad_norm == max_grad_norm
    ours.load_state_dict(plain.state_dict())
    assert ours.max_grad_norm == max_grad_norm and "max_grad_norm" not in ours.param_groups[0]


def check_grad_scaler(opt, is_fused, max_grad_norm, device="cpu") -> None:
    """Either GradScaler unscales, and leaves out the step whose gradients are not finite, as PyTorch's."""
    for scaler in (torch.amp.GradScaler, fm.optim.GradScaler):
        _check_grad_scaler(scaler, opt, is_fused, max_grad_norm, device)


def _check_grad_scaler(scaler, opt, is_fused, max_grad_norm, device) -> None:
    params = parameters((21,), (5, 2))
    twins = twins_of(params)
    fused = {"fused": True} if is_fused else {}
    ours = opt.make(params, max_grad_norm=max_grad_norm, **fused, **opt.full)
    plain = opt.theirs(twins, lr=LR, **fused, **opt.full)
    scalers = [kind(device, init_scale=1024.0) for kind in (scaler, torch.amp.GradScaler)]
    for step in range(4):
        for scaler, model, optimizer in zip(scalers, (params, twins), (ours, plain), strict=True):
            generator = torch.Generator().manual_seed(step)
            factors = [torch.randn(p.shape, generator=generator, device="cpu") for p in model]
            loss = sum((p * f.to(device)).sum() for p, f in zip(model, factors, strict=True))
            optimizer.zero_grad()
            scaler.scale(loss * (math.inf if step == 1 else 1.0)).backward()
            if optimizer is plain and max_grad_norm is not None:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model, max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
        if max_grad_norm is None:
            for p, q in zip(params, twins, strict=True):
                torch.testing.assert_close(p.grad, q.grad, equal_nan=True)
    assert scalers[0].get_scale() == scalers[1].get_scale() == 512.0
    assert_together(params, twins, 4)
    if ours.state[params[0]].get("step") is not None:
        assert ours.state[params[0]]["step"].item() == plain.state[twins[0]]["step"].item() == 3


def check_clip_threads(opt) -> None:
    """The same bits for every number of threads, over tensors cut by chunks, enough of them for runs."""
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            params = parameters((70_001,), (63,), (2_200_000,))
            optimizer = opt.make(params, max_grad_norm=0.5, **opt.full)
            give_grads(0, params)
            optimizer.step()
            found.append(params)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(found[0], other, strict=True))


def check_clip_with_others(opt) -> None:
    """One norm over what the kernel takes and what PyTorch steps: dtypes, layouts, groups."""

    def model():
        made = [*parameters((50,), (4, 3)), *parameters((9,), dtype=torch.float64)]
        made.append(nn.Parameter(randn(7, 6, 4)[:, :2]))
        for i, p in enumerate(made):
            p.grad = randn(20 + i, *p.shape).to(p.dtype)
        return made

    params, twins = model(), model()
    ours = opt.make([{"params": params[:1]}, {"params": params[1:]}], max_grad_norm=0.5)
    plain = opt.plain(twins)
    for _ in range(2):
        ours.step()
    grads = [p.grad.clone() for p in twins]
    for _ in range(2):
        for p, grad in zip(twins, grads, strict=True):
            p.grad = grad.clone()
        torch.nn.utils.clip_grad_norm_(twins, 0.5)
        plain.step()
    assert_together(params, twins, 2)


def check_clip_special(opt) -> None:
    """Gradients whose squares overflow float32 are clipped; NaN reaches all, infinity itself alone."""
    for value in (3e30, math.inf, math.nan):
        params = parameters((20,), (3,))
        wide = twins_of(params, torch.float64)
        for model in (params, wide):
            for p in model:
                p.grad = torch.full(p.shape, 2.0, dtype=p.dtype)
            model[0].grad[4] = value
        opt.make(params, max_grad_norm=0.5).step()
        torch.nn.utils.clip_grad_norm_(wide, 0.5)
        opt.plain(wide).step()
        assert_together(params, wide, 1)
