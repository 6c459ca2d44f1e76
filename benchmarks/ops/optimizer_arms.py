"""The arms of the optimizers: one step over a list of parameters with gradients in place.

Where ours clips (`max_grad_norm`), PyTorch's arms call `clip_grad_norm_` and step. Where ours keeps bfloat16
moments (`state_dtype`), PyTorch's keep float32 ones, the only moments it has.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import arms
import torch
from torch import Tensor

import fastmodel as fm
from fastmodel.ops.parameter_lists import OptimizerCase

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


def contest(op: str, case: OptimizerCase, compile_: str) -> arms.Contest:
    """Every arm with float32 parameters of its own and the same gradients.

    Args:
        op: a key of `OPTIMIZERS`.
        case: its parameters and gradients.
        compile_: "all" has an arm of torch.compile, "auto" only for up to 32 parameters, "none" none.
    """
    ours, plain, options = OPTIMIZERS[op]
    params, grads = case.make(torch.float32)
    max_norm = case.options.get("max_grad_norm")
    expected = _Stepper(
        plain, params, grads, {"foreach": False, **options}, max_norm, torch.float64
    ).answer()
    found = arms.ours(op, lambda: _Stepper(ours, params, grads, {**options, **case.options}).pair)
    for mode, choice in _MODES.items():
        stepper = _Stepper(plain, params, grads, {**options, **choice}, max_norm)
        found["torch" + mode] = arms.Arm(*stepper.pair)
    left_out = {}
    if compile_ == "all" or (compile_ == "auto" and len(params) <= _COMPILED_PARAMETERS):
        compiled = _Stepper(plain, params, grads, options, max_norm)
        compiled.step = arms.compiled(compiled.step)
        found["torch.compile"] = arms.Arm(*compiled.pair)
    else:
        left_out["torch.compile"] = f"--compile {compile_}, {len(params)} parameters"
    # A step adds at most a few terms of the parameter's scale.
    depth = _CHECKED_STEPS
    if "state_dtype" in case.options:
        # Each moment is off by up to 2^-7 of itself, and a step of up to lr by as much and half again
        # for the root; `tolerance` allows 8 eps * sqrt(depth).
        off = _CHECKED_STEPS * options["lr"] * 1.5 * 2**-7
        depth = math.ceil((off / (8 * torch.finfo(torch.float32).eps)) ** 2)
    return arms.Contest(found, expected, depth, case.flops, case.bytes_float32, left_out)


class _Stepper:
    """An optimizer over parameters of its own."""

    def __init__(self, make, params, grads, options, max_norm=None, dtype=torch.float32) -> None:
        self._params = [torch.nn.Parameter(p.detach().to(dtype, copy=True)) for p in params]
        for param, grad in zip(self._params, grads, strict=True):
            # Clipping by PyTorch writes the gradients; nothing else does.
            param.grad = grad.to(dtype, copy=max_norm is not None)
        self._optimizer = make(self._params, **options)
        self._max_norm = max_norm
        self.step: Callable[[], object] = (
            self._optimizer.step if max_norm is None else self._clip_and_step
        )

    def _clip_and_step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._params, self._max_norm)
        self._optimizer.step()

    def answer(self) -> list[Tensor]:
        for _ in range(_CHECKED_STEPS):
            self.step()
        return [torch.cat([param.detach().flatten() for param in self._params])]

    @property
    def pair(self) -> tuple[Callable[[], object], Callable[[], list[Tensor]]]:
        """What is timed, and the answer."""
        return self.step, self.answer
