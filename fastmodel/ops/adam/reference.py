"""adam in plain PyTorch: the definition, the oracle and the last fallback.

At step t, per element, with d the gradient (clipped, and negated to maximize; with L2 weight decay
d += weight_decay * p, with decoupled weight decay first p *= 1 - lr * weight_decay):

    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d^2
    s = amsgrad ? (vmax = max(vmax, v)) : v
    p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)

With a state_dtype the new m, v and vmax, of at least float32, are rounded as they are kept; this step's p is
computed from them as they were before. bfloat16 is rounded at random (`stochastic_rounding`). With a master
copy, in float32, p is computed and kept there, and the parameter is p rounded. With an average a, last

    a = a + (1 - ema_decay) * (p - a)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.adam.state import keys
from fastmodel.ops.batch import AVERAGE, MASTER, Batch
from fastmodel.ops.stochastic_rounding import random_bits, round_


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """One step of every parameter of the batches, in place; state as in `torch.optim.Adam`."""
    if batches[0].is_left_out:
        return
    for batch in batches:
        batch.unscale()
        grads = batch.clipped_grads()
        for i, (param, grad) in enumerate(zip(batch.params, grads, strict=True)):
            state = batch.states[i]
            state["step"] += 1
            if batch.state_dtype is None:
                _step_one(batch.group, param, grad, state)
                new = param
            else:
                new = _step_wide(batch, i, grad)
            if batch.ema_decay is not None:
                state[AVERAGE].lerp_(new, 1 - batch.ema_decay)


def _step_wide(batch: Batch, i: int, grad: Tensor) -> Tensor:
    """Step one parameter and its state in at least float32; returns the parameter before it is rounded."""
    param, state = batch.params[i], batch.states[i]
    wide_dtype = torch.promote_types(param.dtype, torch.float32)
    moments = keys(batch.group)
    # In place of the moments; then rounded into them.
    wide = {key: state[key].to(wide_dtype) for key in moments}
    new = state[MASTER] if batch.has_master else param.to(wide_dtype)
    _step_one(batch.group, new, grad.to(wide_dtype), {**wide, "step": state["step"]})
    if new is not param:
        param.copy_(new)
    if batch.state_dtype != torch.bfloat16:
        for key in moments:
            state[key].copy_(wide[key])
        return new
    bits = random_bits(param, batch.ordinals[i], int(state["step"]), torch.initial_seed())
    for key in moments:
        round_(state[key], wide[key], bits & 0xFFFF if key == "exp_avg" else bits >> 16)
    return new


def _step_one(group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
    lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
    beta1, beta2 = group["betas"]
    step = state["step"].item()
    if group["maximize"]:
        grad = -grad
    if group["decoupled_weight_decay"]:
        param.mul_(1 - lr * weight_decay)
    elif weight_decay != 0:
        grad = grad + weight_decay * param
    first, second = state["exp_avg"], state["exp_avg_sq"]
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).add_((1 - beta2) * grad * grad.conj())
    if group["amsgrad"]:
        second = state["max_exp_avg_sq"].copy_(state["max_exp_avg_sq"].maximum(second))
    denominator = second.sqrt() / (1 - beta2**step) ** 0.5 + eps
    param.sub_(lr / (1 - beta1**step) * first / denominator)
