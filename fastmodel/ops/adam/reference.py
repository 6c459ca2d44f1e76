"""adam in plain PyTorch: the definition, the oracle and the last fallback.

At step t, per element, with d the gradient (clipped, and negated to maximize; with L2 weight decay
d += weight_decay * p, with decoupled weight decay first p *= 1 - lr * weight_decay):

    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d^2
    s = amsgrad ? (vmax = max(vmax, v)) : v
    p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)

With a state_dtype of bfloat16 the new m, v and vmax, of at least float32, are rounded at random as they are
kept (`stochastic_rounding`); this step's p is computed from them as they were before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.batch import Batch
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
                continue
            # In the wide dtype, in place of the moments; then rounded into them.
            wide_dtype = torch.promote_types(param.dtype, torch.float32)
            wide = {k: e if k == "step" else e.to(wide_dtype) for k, e in state.items()}
            wide_param = param.to(wide_dtype)
            _step_one(batch.group, wide_param, grad.to(wide_dtype), wide)
            if wide_param is not param:
                param.copy_(wide_param)
            bits = random_bits(param, batch.ordinals[i], int(state["step"]), torch.initial_seed())
            round_(state["exp_avg"], wide["exp_avg"], bits & 0xFFFF)
            for key in state.keys() - {"step", "exp_avg"}:
                round_(state[key], wide[key], bits >> 16)


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
