"""Numbers of every drop-in optimizer: PyTorch's optimizer in float64, over cases, options and dtypes."""

from __future__ import annotations

import copy
import math

import pytest
import torch

import fastmodel as fm
from support import op_checks
from support.optimizers import (
    assert_near,
    assert_together,
    give_grads,
    here,
    parameters,
    randn,
    random_state,
    run_together,
    twins_of,
)


def one_step_runs(op: str, cases) -> list:
    """(case, backend, dtype): the kernel over every case, each other way over one case."""
    names = {case.name: case for case in cases if not case.is_bench}
    runs = [
        (case, "cpu", dtype)
        for case in names.values()
        for dtype in (torch.float32, torch.bfloat16)
        if op_checks.serves(op, "cpu", dtype)
    ]
    runs += [
        (names["ranks"], backend, dtype)
        for backend in ("library", "reference", None)
        for dtype in op_checks.DTYPES
    ]
    return [pytest.param(*run, id=f"{run[0]}-{run[1]}-{str(run[2])[6:]}") for run in runs]


def check_one_step(opt, case, options, backend, dtype) -> None:
    """One step from the same random state equals one in float64.

    The kernel computes in float32 and rounds each result once (half an eps). PyTorch's own step and the
    reference round after every operation, as the kernel does in float32: about a dozen.
    """
    params, grads = here(*case.make(dtype))
    wide = twins_of(params, torch.float64)
    ours, oracle = opt.make(params, **options), opt.plain(wide, **options)
    for p, q, grad in zip(params, wide, grads, strict=True):
        p.grad, q.grad = torch.ones_like(grad), torch.ones_like(q)
    with fm.use_backend(backend):
        ours.step()
    oracle.step()
    random_state(ours, 7)
    for p, q, grad in zip(params, wide, grads, strict=True):
        p.grad, q.grad = grad, grad.double()
        with torch.no_grad():
            q.copy_(p)
        for key, entry in ours.state[p].items():
            oracle.state[q][key].copy_(entry)
    with fm.use_backend(backend):
        ours.step()
    oracle.step()
    is_low = dtype == torch.bfloat16 or (dtype == torch.float16 and backend == "cuda")
    roundings = 1.01 if is_low and backend in (None, "cpu", "cuda", "triton") else 12
    for i, (p, q) in enumerate(zip(params, wide, strict=True)):
        assert_near(p, q, dtype, roundings, f"{case} parameter {i}")
        assert ours.state[p].keys() == oracle.state[q].keys()
        for key, entry in ours.state[p].items():
            assert_near(entry, oracle.state[q][key], dtype, roundings, f"{case} {key} {i}")


def check_long_run(opt, options) -> None:
    params = parameters((40, 3), (17,), ())
    wide = twins_of(params, torch.float64)
    run_together([opt.make(params, **options), opt.plain(wide, **options)], [params, wide], 50)
    assert_together(params, wide, 50)


def check_special_gradients(opt, options) -> None:
    """NaN and infinity spread as in PyTorch."""
    values = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 1e-30, 1.0]
    params = parameters((27,))
    with torch.no_grad():
        params[0][9:12] = torch.tensor([math.inf, -math.inf, math.nan])
    twins = twins_of(params)
    ours, plain = opt.make(params, **options), opt.plain(twins, **options)
    for step in range(3):
        for model in (params, twins):
            model[0].grad = torch.ones(27) if step == 1 else torch.tensor(values * 3)
        ours.step()
        plain.step()
        torch.testing.assert_close(params[0], twins[0], equal_nan=True)
        for key, entry in ours.state[params[0]].items():
            torch.testing.assert_close(entry, plain.state[twins[0]][key], equal_nan=True)


def check_threads(opt, case, options) -> None:
    """The same bits for every number of threads."""
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            params, grads = case.make(torch.float32)
            optimizer = opt.make(params, **options)
            for _ in range(2):
                for p, grad in zip(params, grads, strict=True):
                    p.grad = grad
                optimizer.step()
            found.append(params)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(p, q) for p, q in zip(found[0], other, strict=True))


def check_shared_memory(opt) -> None:
    """Parameters over one memory are stepped one after the other, whatever the number of threads."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        models = []
        for maker in (opt.make, opt.plain):
            first, second, third = parameters((70_000,), (70_000,), (70_000,))
            second.data = first.data
            third.data = first.data[:]
            models.append([first, second, third])
            optimizer = maker(models[-1], **opt.full)
            for step in range(3):
                give_grads(step, models[-1])
                optimizer.step()
        assert_together(*models, 9)
    finally:
        torch.set_num_threads(before)


def check_tensor_options(opt, options) -> None:
    params = parameters((20,))
    twins = twins_of(params)
    run_together(
        [opt.make(params, **copy.deepcopy(options)), opt.plain(twins, **copy.deepcopy(options))],
        [params, twins],
        5,
    )
    assert_together(params, twins, 5)


def check_negated_view(opt) -> None:
    """A gradient that PyTorch negates lazily is read as negated."""
    params = parameters((1,), ())
    twins = twins_of(params)
    ours, plain = opt.make(params), opt.plain(twins)
    for model in (params, twins):
        for p in model:
            p.grad = torch._neg_view(torch.full(p.shape, 3.0))
            assert p.grad.is_neg()
    ours.step()
    plain.step()
    assert_together(params, twins, 1)


def check_differentiable(opt) -> None:
    """Gradients flow through the step as through PyTorch's."""
    found = []
    for maker in (opt.make, opt.plain):
        scale = torch.tensor(2.0, requires_grad=True)
        param = randn(0, 6).requires_grad_(True)
        leaf = param * scale
        optimizer = maker([leaf.detach().clone().requires_grad_(True)], differentiable=True)
        target = optimizer.param_groups[0]["params"][0]
        clone = target.clone()
        optimizer.param_groups[0]["params"][0] = clone
        clone.grad = (leaf * 3).clone()
        optimizer.step()
        clone.sum().backward()
        found.append((clone.detach(), scale.grad))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
