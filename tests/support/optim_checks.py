"""What every drop-in optimizer is held to: PyTorch's optimizer in float64, over options, dtypes and layouts.

An `OptimizerUnderTest` names ours, PyTorch's and the options; the functions below are the checks, called from
tests/ops/test_<op>.py.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastmodel as fm
from fastmodel.ops import tensor_table
from support import op_checks

LR = 0.05


@dataclass(frozen=True)
class OptimizerUnderTest:
    """One optimizer as the tests see it."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    full: dict[str, Any]
    """Options that give a state of every entry."""

    def __str__(self) -> str:
        return self.ours.__name__

    def plain(self, params, **options):
        """PyTorch's for-loop implementation."""
        return self.theirs(params, foreach=False, **{"lr": LR, **options})

    def make(self, params, **options):
        """Ours."""
        return self.ours(params, **{"lr": LR, **options})


def randn(seed: int, *shape: int, dtype=torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def parameters(*shapes: tuple[int, ...], dtype=torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(randn(i, *shape, dtype=dtype)) for i, shape in enumerate(shapes)]


def twins_of(params: list[nn.Parameter], dtype: torch.dtype | None = None) -> list[nn.Parameter]:
    """The same values in memory of their own, strides kept."""
    return [nn.Parameter(p.detach().clone().to(dtype or p.dtype)) for p in params]


def give_grads(step: int, *models: list[nn.Parameter]) -> None:
    """The same new gradients, of unit scale, for every list of parameters."""
    for i, params in enumerate(zip(*models, strict=True)):
        values = randn(1000 * (step + 1) + i, *params[0].shape).to(params[0].dtype)
        for param in params:
            param.grad = values.to(param.dtype, copy=True)


def random_state(optimizer, step: int) -> None:
    """Replace every state entry by values as a long run may leave them."""
    for i, state in enumerate(optimizer.state.values()):
        for j, (key, entry) in enumerate(sorted(state.items())):
            if key == "step":
                entry.fill_(step)
            else:
                values = randn(100 + 10 * i + j, *entry.shape).to(entry.dtype)
                # Away from 0, where low precision has no relative accuracy left.
                entry.copy_(values.square() + 0.25 if "sq" in key else values)


def assert_near(found, expected, dtype, roundings: float, what: str) -> None:
    """found equals the float64 expectation, both of about unit scale, to `roundings` roundings of dtype.

    One rounding is for a kernel that computes in float32: its intermediates add float32's few.
    """
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        found.double(),
        expected.double(),
        rtol=roundings * eps / 2,
        atol=16 * torch.finfo(torch.float32).eps if roundings < 2 else roundings * eps / 2,
        msg=lambda m: f"{what}: {m}",
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
    params, grads = case.make(dtype)
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
    is_kernel = backend in (None, "cpu") and dtype in (torch.float32, torch.bfloat16)
    roundings = 1.01 if is_kernel and dtype == torch.bfloat16 else 12
    for i, (p, q) in enumerate(zip(params, wide, strict=True)):
        assert_near(p, q, dtype, roundings, f"{case} parameter {i}")
        assert ours.state[p].keys() == oracle.state[q].keys()
        for key, entry in ours.state[p].items():
            assert_near(entry, oracle.state[q][key], dtype, roundings, f"{case} {key} {i}")


def run_together(optimizers, models, steps: int, start: int = 0) -> None:
    for step in range(start, start + steps):
        give_grads(step, *models)
        for optimizer in optimizers:
            optimizer.step()


def assert_together(params, twins, steps: int, dtype=torch.float32) -> None:
    """After `steps` steps of size about LR: each adds a rounding of the parameter and few of the update."""
    eps = torch.finfo(dtype).eps
    for i, (p, q) in enumerate(zip(params, twins, strict=True)):
        scale = max(1.0, q.detach().abs().max().item() if q.numel() else 1.0)
        torch.testing.assert_close(
            p.detach().double(),
            q.detach().double(),
            rtol=0,
            atol=4 * steps * eps * scale,
            equal_nan=True,
            msg=lambda m, i=i: f"parameter {i}: {m}",
        )


def check_long_run(opt, options) -> None:
    params = parameters((40, 3), (17,), ())
    wide = twins_of(params, torch.float64)
    run_together([opt.make(params, **options), opt.plain(wide, **options)], [params, wide], 50)
    assert_together(params, wide, 50)


# Layouts: each makes (parameter, gradient) from values of shape (4, 3, 5, 2), and may give the buffer whose
# other elements must not change.
SHAPE = (4, 3, 5, 2)


def _in_buffer(values: Tensor, index) -> tuple[Tensor, Tensor]:
    buffer = torch.full((2 * values.shape[0] + 1, *values.shape[1:]), 7.0, dtype=values.dtype)
    view = buffer[index]
    view.copy_(values)
    return view, buffer


def _offset(values: Tensor) -> Tensor:
    buffer = torch.zeros(values.numel() + 1, dtype=values.dtype)
    buffer[1:] = values.reshape(-1)
    return buffer[1:].view(values.shape)


def _last(values: Tensor) -> Tensor:
    return values.to(memory_format=torch.channels_last)


def _swapped(values: Tensor) -> Tensor:
    return values.transpose(0, 1).contiguous().transpose(0, 1)


LAYOUTS = {
    "contiguous": (lambda v: (v, None), lambda g: g),
    "channels_last": (lambda v: (_last(v), None), _last),
    "channels_last, contiguous gradient": (lambda v: (_last(v), None), lambda g: g),
    "contiguous, channels_last gradient": (lambda v: (v, None), _last),
    "transposed, contiguous gradient": (lambda v: (_swapped(v), None), lambda g: g),
    "strided view": (lambda v: _in_buffer(v, slice(0, 8, 2)), lambda g: g),
    "slice of a buffer": (lambda v: _in_buffer(v, slice(1, 5)), lambda g: g),
    "strided view, channels_last gradient": (lambda v: _in_buffer(v, slice(1, 8, 2)), _last),
    "misaligned": (lambda v: (_offset(v), None), _offset),
    "expanded gradient": (lambda v: (v, None), lambda g: g[:1, :1, :1, :1].expand(g.shape)),
}


def check_layout(opt, layout, options, dtype) -> None:
    """Three steps equal PyTorch's for-loop; elements around a view keep their values."""
    place, place_grad = LAYOUTS[layout]
    values = randn(0, *SHAPE, dtype=dtype)
    view, buffer = place(values.clone())
    params = [nn.Parameter(view), nn.Parameter(randn(1, 9, dtype=dtype))]
    assert params[0].data_ptr() == view.data_ptr()
    wide = [nn.Parameter(values.double()), nn.Parameter(params[1].detach().double())]
    ours, oracle = opt.make(params, **options), opt.plain(wide, **options)
    for step in range(3):
        give_grads(step, params, wide)
        params[0].grad = place_grad(params[0].grad.clone())
        wide[0].grad = params[0].grad.double().contiguous()
        ours.step()
        oracle.step()
    steps = 3 if dtype == torch.float32 else 6  # moments are rounded too
    assert_together(params, wide, steps, dtype)
    assert params[0].data_ptr() == view.data_ptr() and params[0].stride() == view.stride()
    if buffer is not None:
        outside = torch.ones(buffer.shape, dtype=torch.bool)
        outside.as_strided(view.shape, view.stride(), view.storage_offset()).fill_(False)
        assert (buffer[outside] == 7.0).all() and outside.any()


def check_resumed_across_layouts(opt) -> None:
    """A checkpoint of contiguous parameters goes on in channels_last ones, and back."""
    params = parameters(SHAPE)
    wide = twins_of(params, torch.float64)
    oracle = opt.plain(wide, **opt.full)
    run_together([first := opt.make(params, **opt.full), oracle], [params, wide], 3)
    for step, layout in ((3, torch.channels_last), (6, torch.contiguous_format)):
        params = [nn.Parameter(params[0].detach().clone(memory_format=layout))]
        second = opt.make(params, **opt.full)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        run_together([second, oracle], [params, wide], 3, step)
        first = second
    assert_together(params, wide, 9)


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


def check_grad_scaler(opt, is_fused, max_grad_norm) -> None:
    """GradScaler unscales, and leaves out the step whose gradients are not finite, as with PyTorch's."""
    params = parameters((21,), (5, 2))
    twins = twins_of(params)
    fused = {"fused": True} if is_fused else {}
    ours = opt.make(params, max_grad_norm=max_grad_norm, **fused, **opt.full)
    plain = opt.theirs(twins, lr=LR, **fused, **opt.full)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for step in range(4):
        for scaler, model, optimizer in zip(scalers, (params, twins), (ours, plain), strict=True):
            generator = torch.Generator().manual_seed(step)
            loss = sum((p * torch.randn(p.shape, generator=generator)).sum() for p in model)
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


def check_fused_heeds_strides(opt) -> None:
    """fused=True on a float64 channels_last parameter with a contiguous gradient."""
    params = [nn.Parameter(_last(randn(0, *SHAPE, dtype=torch.float64)))]
    twins = [nn.Parameter(params[0].detach().contiguous())]
    ours = opt.make(params, fused=True, **opt.full)
    run_together([ours, opt.plain(twins, **opt.full)], [params, twins], 3)
    torch.testing.assert_close(params[0].contiguous(), twins[0])


def check_tensor_options(opt, options) -> None:
    params = parameters((20,))
    twins = twins_of(params)
    run_together(
        [opt.make(params, **copy.deepcopy(options)), opt.plain(twins, **copy.deepcopy(options))],
        [params, twins],
        5,
    )
    assert_together(params, twins, 5)


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


def check_without_exchange_api(opt, monkeypatch) -> None:
    """A PyTorch without DLPack's exchange API is served by the same kernel."""
    monkeypatch.setattr(tensor_table, "_EXCHANGE_API", None)
    params = [*parameters((33,), (0, 2), ()), nn.Parameter(_last(randn(9, *SHAPE)))]
    wide = twins_of(params, torch.float64)
    with fm.use_backend("cpu"):
        ours = opt.make(params, **opt.full)
        run_together([ours, opt.plain(wide, **opt.full)], [params, wide], 3)
    assert_together(params, wide, 3)


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
