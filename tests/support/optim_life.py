"""Life of every drop-in optimizer in a training loop: checkpoints, hooks, groups, backends, errors."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import fastmodel as fm
from support.optimizers import (
    LR,
    assert_together,
    give_grads,
    parameters,
    randn,
    run_together,
    twins_of,
)


def check_hooks_and_profiler(opt) -> None:
    """Each hook is called once a step, those for all optimizers too; the profiler sees step and zero_grad."""
    params = parameters((6, 5))
    optimizer = opt.make(params, lr=LR)
    calls: list[str] = []

    def note(name):
        return lambda *_: calls.append(name)

    def step():
        calls.clear()
        give_grads(0, params)
        optimizer.step()
        return calls

    assert step() == []
    for register, name in (
        (optimizer.register_step_pre_hook, "pre"),
        (optimizer.register_step_post_hook, "post"),
        (register_optimizer_step_pre_hook, "pre of all"),
        (register_optimizer_step_post_hook, "post of all"),
    ):
        handle = register(note(name))
        assert step() == [name]
        handle.remove()
    assert step() == []
    with torch.profiler.profile() as profile:
        step()
        optimizer.zero_grad()
    kind = type(optimizer).__name__
    assert {f"Optimizer.step#{kind}.step", f"Optimizer.zero_grad#{kind}.zero_grad"} <= {
        event.key for event in profile.key_averages()
    }
    assert all(param.grad is None for param in params)
    give_grads(0, params)
    optimizer.zero_grad(set_to_none=False)
    assert all(not param.grad.any() for param in params)


def check_state_dict_both_ways(opt, options, tmp_path) -> None:
    """Mid-training, each goes on from the other's checkpoint, and all three runs stay together."""
    params = parameters((6, 5), (19,), ())
    models = [params, twins_of(params), twins_of(params)]
    optimizers = [
        opt.make(models[0], **options),
        opt.plain(models[1], **options),
        opt.plain(models[2], **options),
    ]
    run_together(optimizers, models, 4)
    for maker, model in ((opt.make, 1), (opt.theirs, 0)):
        torch.save(optimizers[model].state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        for group in state["param_groups"]:
            group["foreach"] = None
        resumed = maker(models[model], **options)
        resumed.load_state_dict(state)
        optimizers[model] = resumed
    run_together(optimizers, models, 6, 4)
    assert_together(models[0], models[2], 10)
    assert_together(models[1], models[2], 10)
    left, right = (o.state_dict() for o in optimizers[:2])
    assert left.keys() == right.keys() and left["state"].keys() == right["state"].keys()
    assert left["param_groups"][0].keys() == right["param_groups"][0].keys()
    for key in left["state"]:
        assert left["state"][key].keys() == right["state"][key].keys()
        for name, a in left["state"][key].items():
            b = right["state"][key][name]
            assert (a.dtype, a.shape, a.device) == (b.dtype, b.shape, b.device)


def check_reassigned(opt) -> None:
    """`.data` and `.grad` may be replaced, and a state loaded, between any two steps."""
    params = parameters((33,), (4, 4))
    twins = twins_of(params)
    optimizers = [opt.make(params, **opt.full), opt.plain(twins, **opt.full)]
    for step in range(5):
        for model in (params, twins):
            for p in model:
                p.data = p.data.clone() * 1.5
                p.grad = None
        if step == 3:
            for optimizer in optimizers:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        run_together(optimizers, [params, twins], 1, step)
    assert_together(params, twins, 5)


def check_life_of_a_loop(opt) -> None:
    """Closure, hooks, scheduler, a group added later, parameters without gradient, deepcopy and pickle."""
    params = parameters((5, 4), (7,), (3,))
    twins = twins_of(params)
    calls: list[str] = []
    runs = []
    for model, maker in ((params, opt.make), (twins, opt.plain)):
        optimizer = maker(model[:2], **opt.full)
        optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
        optimizer.register_step_post_hook(lambda *_: calls.append("post"))
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        runs.append((model, optimizer, scheduler))
    opt.theirs(
        [nn.Parameter(torch.ones(1))]
    )  # PyTorch wraps its class's step at the first instance
    for step in range(6):
        for model, optimizer, scheduler in runs:
            if step == 3:
                optimizer.add_param_group({"params": [model[2]], "lr": 0.01})
                scheduler.base_lrs.append(0.01)
            give_grads(step, model)
            if step % 2:
                model[1].grad = None

            def closure(model=model):
                assert torch.is_grad_enabled()
                return sum(p.sum() for p in model)

            loss = optimizer.step(closure)
            assert loss.requires_grad
            scheduler.step()
    assert calls == ["pre", "post"] * 12
    assert_together(params, twins, 6)
    assert runs[0][1].param_groups[0]["lr"] == runs[1][1].param_groups[0]["lr"] == LR / 8
    for clone in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        model, optimizer = clone((params[:2], opt.make(params[:2], **opt.full)))
        twin = twins_of(model)
        run_together([optimizer, opt.plain(twin, **opt.full)], [model, twin], 2)
        assert_together(model, twin, 2)


def check_left_to_pytorch(opt) -> None:
    """What the kernel does not take steps exactly as PyTorch does, beside parameters that it takes."""

    class Odd(torch.Tensor):
        pass

    def model():
        made = [
            nn.Parameter(randn(0, 9)),
            nn.Parameter(randn(1, 9).double()),
            nn.Parameter(randn(2, 9).half()),
            nn.Parameter(torch.complex(randn(3, 9), randn(4, 9))),
            nn.Parameter(randn(5, 9).bfloat16()),
            randn(6, 9).as_subclass(Odd).requires_grad_(True),
        ]
        for i, p in enumerate(made):
            p.grad = randn(10 + i, 9).to(p.dtype) * (1 + 1j if p.is_complex() else 1)
        return made

    params, twins = model(), model()
    ours, plain = opt.make(params, **opt.full), opt.plain(twins, **opt.full)
    for _ in range(3):
        ours.step()
        plain.step()
    for i in (1, 2, 3, 5):
        assert torch.equal(params[i], twins[i])
    assert_together(params[:1], twins[:1], 3)
    assert_together(params[4:5], twins[4:5], 6, torch.bfloat16)


def check_explicit_backend_writes_nothing(opt) -> None:
    """use_backend("cpu") with one parameter that the kernel does not take raises before any write."""
    params = [*parameters((9,)), *parameters((9,), dtype=torch.float64)]
    give_grads(0, params)
    before = [p.detach().clone() for p in params]
    optimizer = opt.make(params)
    with fm.use_backend("cpu"), pytest.raises(fm.errors.BackendError, match="'cpu'"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
    for options in ({"foreach": False}, {"foreach": True}, {"fused": False}):
        optimizer = opt.make(params[:1], **options)
        with fm.use_backend("cpu"), pytest.raises(fm.errors.BackendError, match="PyTorch's own"):
            optimizer.step()


def check_pytorch_implementations(opt) -> None:
    """foreach= and fused=False get the implementation they name, bit by bit."""
    for options in ({"foreach": True}, {"foreach": False}, {"fused": False}):
        params = parameters((40,))
        twins = twins_of(params)
        ours = opt.make(params, **options, **opt.full)
        theirs = opt.theirs(twins, lr=LR, **options, **opt.full)
        run_together([ours, theirs], [params, twins], 3)
        assert torch.equal(params[0], twins[0])


def check_compiles(opt) -> None:
    """A step under torch.compile."""
    params = parameters((12,), (2, 3))
    twins = twins_of(params)
    ours = opt.make(params, **opt.full)
    give_grads(0, params)
    step = torch.compile(ours.step, backend="eager")
    step()
    give_grads(0, twins)
    plain = opt.plain(twins, **opt.full)
    plain.step()
    give_grads(1, params, twins)
    step()
    plain.step()
    assert_together(params, twins, 2)


def check_errors(opt) -> None:
    for bad in (0, -1.0, math.nan, "1"):
        with pytest.raises(fm.errors.InputError, match="max_grad_norm") as raised:
            opt.make(parameters((2,)), max_grad_norm=bad)
        assert "\n" not in str(raised.value)
    for options in ({"lr": -1.0}, {"weight_decay": -1.0}):
        with pytest.raises(ValueError) as ours:
            opt.make(parameters((2,)), **options)
        with pytest.raises(ValueError) as theirs:
            opt.plain(parameters((2,)), **options)
        assert str(ours.value) == str(theirs.value)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        opt.make(parameters((2,)), fused=True, foreach=True)
    assert issubclass(opt.ours, opt.theirs)
    assert repr(opt.make(parameters((2,)))) == repr(opt.theirs(parameters((2,)), lr=LR))
