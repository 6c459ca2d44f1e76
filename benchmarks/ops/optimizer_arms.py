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
_COMPILED_PARAMETERS = 32  # the code of a step grows with them, and so do the minutes to compile it
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


def contest(op: str, case: Case, compile_: str) -> arms.Contest:
    """Every arm with float32 parameters of its own and the same gradients.

    Args:
        op: a key of `OPTIMIZERS`.
        case: its parameters and gradients.
        compile_: "all" has an arm of torch.compile, "auto" only for up to 32 parameters, "none" none.
    """
    fused, plain, options = OPTIMIZERS[op]
    params, grads = case.make(torch.float32)
    oracle = _stepper(plain, params, grads, {"foreach": False, **options}, torch.float64)
    found = arms.ours(op, lambda: _stepper(fused, params, grads, options))
    for mode, choice in _MODES.items():
        found["torch" + mode] = arms.Arm(*_stepper(plain, params, grads, {**options, **choice}))
    left_out = {}
    if compile_ == "all" or (compile_ == "auto" and len(params) <= _COMPILED_PARAMETERS):
        stepper = _stepper(plain, params, grads, options, compile_step=True)
        found["torch.compile"] = arms.Arm(*stepper)
    else:
        left_out["torch.compile"] = f"--compile {compile_}, {len(params)} parameters"
    # A step adds at most a few terms of the parameter's scale.
    depth = _CHECKED_STEPS
    return arms.Contest(found, oracle[1](), depth, case.flops, case.bytes_float32, left_out)


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
