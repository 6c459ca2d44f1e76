"""Races of the optimizers: one step over a list of parameters with gradients in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import measure
import torch
from measure import AUTO, Arm, Goal, Race
from records import Line
from torch import Tensor, nn

import fastmodel as fm
from fastmodel.ops.parameter_lists import BENCHES

_OPTIONS = {"lr": 1e-3, "weight_decay": 0.01}
_CHECKED_STEPS = 3
_MODES: dict[str, dict[str, bool]] = {"torch": {}, "torch fused": {"fused": True}}
_SCALE, _MAX_NORM = 1024.0, 1.0


def races() -> Iterator[Callable[[], Race]]:
    """AdamW over each list, then a mixed-precision step over GPT-2's."""
    for name in ("resnet50", "gpt2-small"):
        shapes = BENCHES[name]
        yield lambda name=name, shapes=shapes: adamw(
            name, shapes, (Goal("ratio to torch fused", 1.3),)
        )
    yield lambda: mixed("gpt2-small", BENCHES["gpt2-small"])
    # 1e9 float32 parameters: 4 GB, as much for gradients, and 8 GB of moments an arm.
    shapes = ((3_333_334,),) * 300
    goals = (Goal("share of the copy", 0.92), Goal("ratio to torch fused", 1.0))
    yield lambda: adamw("1e9 in 300 tensors", shapes, goals)


def adamw(name: str, shapes: Sequence[tuple[int, ...]], goals: Sequence[Goal]) -> Race:
    """One step; every arm has a state of its own over the same parameters and gradients."""
    count = sum(map(_size, shapes))
    params, grads = _tensors(shapes, torch.float32), _tensors(shapes, torch.float32)
    arms, expected = {}, _expected()
    for arm, make in _makers().items():
        stepper = _over(params, grads, make)
        arms[arm] = Arm(stepper.step, _checked(make), is_ours=arm == AUTO)
    # p, g, m, v in; p, m, v out.
    return Race(Line("adamw", name), arms, expected, 14 * count, 28 * count, goals)


def _makers() -> dict[str, Callable]:
    found: dict[str, Callable] = {AUTO: lambda params: fm.optim.AdamW(params, **_OPTIONS)}
    for name, mode in _MODES.items():
        found[name] = lambda params, mode=mode: torch.optim.AdamW(params, **_OPTIONS, **mode)
    return found


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _tensors(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, device=measure.DEVICE).to(dtype) for shape in shapes]


def _over(params: list[Tensor], grads: list[Tensor], make: Callable) -> torch.optim.Optimizer:
    leaves = [nn.Parameter(param) for param in params]  # over the same memory
    for leaf, grad in zip(leaves, grads, strict=True):
        leaf.grad = grad
    return make(leaves)


# Around the blocks of a kernel, and a layout that is not contiguous.
_CHECKED = ((1,), (1023,), (1025,), (65_537,), (64, 32, 3, 3))


def _checked_parameters(dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = [[torch.randn(s, generator=generator) for s in _CHECKED] for _ in range(2)]
    params, grads = ([t.to(measure.DEVICE, dtype) for t in tensors] for tensors in drawn)
    params[-1] = params[-1].contiguous(memory_format=torch.channels_last)
    return params, grads


def _checked(make: Callable) -> Callable[[], list[Tensor]]:
    def answer() -> list[Tensor]:
        params, grads = _checked_parameters(torch.float32)
        stepper = _over(params, grads, make)
        for _ in range(_CHECKED_STEPS):
            stepper.step()
        return [torch.cat([param.flatten() for param in params])]

    return answer


def _expected() -> list[Tensor]:
    params, grads = _checked_parameters(torch.float64)
    stepper = _over(
        params, grads, lambda leaves: torch.optim.AdamW(leaves, **_OPTIONS, foreach=False)
    )
    for _ in range(_CHECKED_STEPS):
        stepper.step()
    return [torch.cat([param.flatten() for param in params])]


def mixed(name: str, shapes: Sequence[tuple[int, ...]]) -> Race:
    """From bfloat16 gradients, scaled, to bfloat16 parameters: by way of float32 masters, clipped.

    PyTorch's sequence is what its documentation gives for a model in bfloat16 with masters: copy the
    gradients to the masters', unscale and look for infinities, clip, step (fused), copy the masters back.
    Ours is one step with `master_weights` and `max_grad_norm`, under `fm.optim.GradScaler`.
    """
    count = sum(map(_size, shapes))
    grads = _tensors(shapes, torch.bfloat16)
    arms = {AUTO: Arm(*_own_mixed_step(shapes, grads), is_ours=True)}
    for mode, options in _MODES.items():
        arms[mode] = Arm(*_torchs_mixed_step(shapes, grads, options))
    # Norm: g, 2 bytes. Step: 2 of g and 12 of master, m, v in; 2 of p and 12 of master, m, v out. The
    # gradients that are unscaled in place, as PyTorch's are, come on top, and are not counted.
    line = Line("mixed-precision AdamW", name)
    return Race(line, arms, None, 20 * count, 30 * count, (Goal("ratio to the best", 1.8),))


Pair = tuple[Callable[[], object], Callable[[], list[Tensor]]]
"""The step, and an answer: that it runs is what is checked here, the numbers are by the tests."""


def _scaler(kind: type[torch.amp.GradScaler]) -> torch.amp.GradScaler:
    scaler = kind(measure.DEVICE, init_scale=_SCALE, growth_interval=10**9)
    scaler.scale(torch.ones((), device=measure.DEVICE))  # it makes its state in the first use
    return scaler


def _own_mixed_step(shapes: Sequence[tuple[int, ...]], grads: list[Tensor]) -> Pair:
    scaler = _scaler(fm.optim.GradScaler)
    options = {**_OPTIONS, "fused": True, "max_grad_norm": _MAX_NORM, "master_weights": True}
    optimizer = _over(
        _tensors(shapes, torch.bfloat16), grads, lambda leaves: fm.optim.AdamW(leaves, **options)
    )

    def step() -> None:
        scaler.step(optimizer)
        scaler.update()

    return step, lambda: [step()][:0]


def _torchs_mixed_step(
    shapes: Sequence[tuple[int, ...]], grads: list[Tensor], mode: dict[str, bool]
) -> Pair:
    scaler = _scaler(torch.amp.GradScaler)
    params = _tensors(shapes, torch.float32)
    copies = [param.to(torch.bfloat16) for param in params]
    wide = [torch.empty_like(param) for param in params]
    optimizer = _over(
        params, wide, lambda leaves: torch.optim.AdamW(leaves, **{**_OPTIONS, **mode})
    )
    leaves = optimizer.param_groups[0]["params"]

    @torch.no_grad()
    def step() -> None:
        torch._foreach_copy_(wide, grads)
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(leaves, _MAX_NORM)
        scaler.step(optimizer)
        scaler.update()
        torch._foreach_copy_(copies, leaves)

    return step, lambda: [step()][:0]
