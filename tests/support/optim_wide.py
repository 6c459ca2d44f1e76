"""float32 masters and averages of every drop-in optimizer, against float64 steps over the same gradients."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import fastmodel as fm
from support.optimizers import (
    assert_together,
    give_grads,
    parameters,
    randn,
    run_together,
    twins_of,
)

SHAPES = ((40, 3), (17,), (), (1025,))
EXTRAS = [{"master_weights": True, "ema_decay": 0.5}, {"ema_decay": 0.9}]


def run_wide(opt, params, steps: int, ema_decay: float = 0.0, **options):
    """float64 steps over the very gradients that low-precision parameters get, and their average."""
    wide = twins_of(params, torch.float64)
    averages = [p.detach().clone() for p in wide]
    oracle = opt.plain(wide, **options)
    for step in range(steps):
        give_grads(step, params, wide)
        for p, q in zip(params, wide, strict=True):
            q.grad = p.grad.double()
        oracle.step()
        for average, q in zip(averages, wide, strict=True):
            average.lerp_(q.detach(), 1 - ema_decay)
    return wide, averages, oracle


def _entries(optimizer, params, key: str) -> list[torch.Tensor]:
    return [optimizer.state[p][key] for p in params]


def check_master_weights(opt, options, dtype, backend: str) -> None:
    """Ten steps lose nothing to rounding but the parameter's own, once: it is its master copy rounded."""
    params = parameters(*SHAPES, dtype=dtype)
    wide, averages, _ = run_wide(opt, params, 10, ema_decay=0.9, **options)
    ours = opt.make(params, master_weights=True, ema_decay=0.9, **options)
    with fm.use_backend(backend):
        run_together([ours], [params], 10)
    masters = _entries(ours, params, "master_param")
    assert all(m.dtype == torch.float32 for m in masters)
    assert all(torch.equal(p, m.to(dtype)) for p, m in zip(params, masters, strict=True))
    assert_together(masters, wide, 10)
    assert_together(_entries(ours, params, "ema_param"), averages, 10)


def check_averages(opt, options, dtype, backend: str) -> None:
    """In float32, so that they do not stall where the parameter moves by less than they can tell apart."""
    params = parameters(*SHAPES, dtype=dtype)
    wide, averages, _ = run_wide(opt, params, 6, ema_decay=0.75, **options)
    ours = opt.make(params, ema_decay=0.75, **options)
    with fm.use_backend(backend):
        run_together([ours], [params], 6)
    assert all(a.dtype == torch.float32 for a in _entries(ours, params, "ema_param"))
    assert_together(params, wide, 6, dtype)
    # Of the parameter as it was computed: the last one's rounding is not in it, the earlier ones' are.
    assert_together(_entries(ours, params, "ema_param"), averages, 6, dtype)
    if dtype != torch.float32:
        still = [nn.Parameter(torch.ones(1025, dtype=dtype))]
        still[0].grad = torch.zeros_like(still[0])
        slow = opt.make(still, ema_decay=0.999, **{**options, "weight_decay": 0.0})
        with fm.use_backend(backend):
            slow.step()
            slow.state[still[0]]["ema_param"].zero_()
            for _ in range(10):
                slow.step()
        expected = torch.full((1025,), 1 - 0.999**10)
        torch.testing.assert_close(slow.state[still[0]]["ema_param"], expected, rtol=1e-5, atol=0)


def check_unaligned_state(opt, key: str, keys: tuple[str, ...]) -> None:
    """A state entry that begins off a pack changes no result."""
    made = []
    for is_offset in (False, True):
        params = parameters((2050,), dtype=torch.bfloat16)
        ours = opt.make(params, master_weights=True, ema_decay=0.5, **opt.full)
        run_together([ours], [params], 1)
        state = ours.state[params[0]]
        if is_offset:
            buffer = torch.empty(2051)
            buffer[1:] = state[key]
            state[key] = buffer[1:]
        run_together([ours], [params], 1, 1)
        made.append([params[0], *(state[name] for name in keys)])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def check_beside_float32(opt) -> None:
    """In one group, and where all of it is staged for its layout."""
    params = [*parameters((6, 5)), *parameters((7, 4), dtype=torch.bfloat16)]
    params += [nn.Parameter(randn(5, 8, 3).t().to(torch.float16))]
    wide, _, _ = run_wide(opt, params, 4, **opt.full)
    ours = opt.make(params, master_weights=True, max_grad_norm=1e6, **opt.full)
    run_together([ours], [params], 4)
    assert ["master_param" in ours.state[p] for p in params] == [False, True, True]
    found = [params[0], *(ours.state[p]["master_param"] for p in params[1:])]
    assert_together(found, wide, 4)


def check_float64(opt) -> None:
    """Nothing of float64 parameters is kept in less."""
    params = parameters((6, 5), dtype=torch.float64)
    wide, averages, _ = run_wide(opt, params, 4, ema_decay=0.5, **opt.full)
    ours = opt.make(params, master_weights=True, ema_decay=0.5, **opt.full)
    with fm.use_backend("reference"):
        run_together([ours], [params], 4)
    torch.testing.assert_close(params, wide, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        _entries(ours, params, "ema_param"), averages, rtol=1e-12, atol=1e-12
    )


def check_saved_whole(opt, options, tmp_path) -> None:
    """A run that goes on from a checkpoint equals one that was not broken off, to the bit."""
    params = parameters((6, 5), (19,), dtype=torch.bfloat16)
    twins = twins_of(params)
    options = {**opt.full, **options}
    first, whole = opt.make(params, **options), opt.make(twins, **options)
    run_together([first, whole], [params, twins], 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = opt.make(params, **options)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    third = copy.deepcopy(second)
    assert third.master_weights == second.master_weights == first.master_weights
    assert third.ema_decay == first.ema_decay
    run_together([second, whole], [params, twins], 3, 3)
    assert all(torch.equal(p, q) for p, q in zip(params, twins, strict=True))
    for p, q in zip(params, twins, strict=True):
        assert second.state[p].keys() == whole.state[q].keys()
        for key, entry in second.state[p].items():
            other = whole.state[q][key]
            assert torch.equal(entry, other) and entry.dtype == other.dtype


def check_errors(opt) -> None:
    """Each names the optimizer, what came and what to do."""
    for options, words in (
        ({"ema_decay": 1.0}, r"ema_decay is 1\.0; pass a number from 0 below 1, or None"),
        ({"ema_decay": math.nan}, r"ema_decay is nan"),
        ({"master_weights": True, "foreach": False}, "foreach= .* has no master_weights"),
        ({"ema_decay": 0.5, "fused": False}, "fused= .* has no ema_decay"),
        ({"ema_decay": 0.5, "differentiable": True}, "differentiable= .* has no ema_decay"),
    ):
        with pytest.raises(fm.errors.InputError, match=f"{opt}: {words}"):
            opt.make(parameters((4,)), **options)


def check_refused_elsewhere(opt) -> None:
    """PyTorch's step and the CPU's kernels keep none of it, and say so before anything is written."""
    for dtype, options, refusals in (
        (
            torch.bfloat16,
            {"master_weights": True},
            ("master copies", "the state in the parameter's"),
        ),
        (torch.float32, {"ema_decay": 0.5}, ("master copies and averages", "keeps no average")),
    ):
        params = parameters((4,), dtype=dtype)
        give_grads(0, params)
        before = params[0].detach().clone()
        for backend, words in zip(("cpu", "library"), refusals, strict=True):
            with fm.use_backend(backend), pytest.raises(fm.errors.BackendError, match=words):
                opt.make(params, **options).step()
            assert torch.equal(params[0], before)
