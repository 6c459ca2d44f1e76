"""The arms of the optimizers: one step over a list of parameters with gradients in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import arms
import torch
from torch import Tensor

import fastmodel as fm
from fastmodel.ops.case import Case

STEP = "step"
_CHECKED_STEPS = 3
_MODES: dict[str, dict[str, bool]] = {
    "": {},
    " foreach": {"foreach": True},
    " fused": {"fused": True},
}

# Ours, PyTorch's, options.
OPTIMIZERS: dict[str, tuple[Callable, Callable, dict[str, Any]]] = {
    "adam": (fm.optim.Adam, torch.optim.Adam, {"lr": 1e-3}),
    "sgd": (fm.optim.SGD, torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
}


def contest(op: str, case: Case, is_compiled: bool) -> arms.Contest:
    """Every arm with float32 parameters of its own and the same gradients; torch.compile's if asked for."""
    fused, plain, options = OPTIMIZERS[op]
    params, grads = case.make(torch.float32)
    oracle = _stepper(plain, params, grads, {"foreach": False, **options}, torch.float64)
    found = arms.ours(op, lambda: _stepper(fused, params, grads, options))
    for mode, choice in _MODES.items():
        found["torch" + mode] = arms.Arm(*_stepper(plain, params, grads, {**options, **choice}))
    if is_compiled:
        found["torch.compile"] = arms.Arm(
            *_stepper(plain, params, grads, options, compile_step=True)
        )
    # A step adds at most a few terms of the parameter's scale.
    depth = _CHECKED_STEPS
    return arms.Contest(found, oracle[1](), depth, case.flops, case.bytes_float32)


def _stepper(
    make, params, grads, options, dtype=torch.float32, compile_step=False
) -> tuple[Callable, Callable]:
    own = [torch.nn.Parameter(p.detach().to(dtype, copy=True)) for p in params]
    for param, grad in zip(own, grads, strict=True):
        param.grad = grad.to(dtype)
    optimizer = make(own, **options)
    step = arms.compiled(optimizer.step) if compile_step else optimizer.step

    def answer() -> list[Tensor]:
        for _ in range(_CHECKED_STEPS):
            step()
        return [torch.cat([param.detach().flatten() for param in own])]

    return step, answer
