"""adam in plain PyTorch: the definition, the oracle and the last fallback.

At step t, per element, with d the gradient (clipped, and negated to maximize; with L2 weight decay
d += weight_decay * p, with decoupled weight decay first p *= 1 - lr * weight_decay):

    m = beta1 * m + (1 - beta1) * d
    v = beta2 * v + (1 - beta2) * d^2
    s = amsgrad ? (vmax = max(vmax, v)) : v
    p = p - lr / (1 - beta1^t) * m / (sqrt(s) / sqrt(1 - beta2^t) + eps)
"""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.batch import Batch


def step(lead: Tensor, batch: Batch) -> None:
    """One step of every parameter of the batch, in place; state as in `torch.optim.Adam`."""
    if not batch.unscale():
        return
    group = batch.group
    lr, eps, weight_decay = group["lr"], group["eps"], group["weight_decay"]
    beta1, beta2 = group["betas"]
    for param, grad, state in zip(batch.params, batch.clipped_grads(), batch.states, strict=True):
        state["step"] += 1
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
