"""sgd in plain PyTorch: the definition, the oracle and the last fallback.

Per element, with d the gradient (clipped, negated to maximize, and d += weight_decay * p):

    without momentum:  p = p - lr * d
    with it:           b = first step ? d : momentum * b + (1 - dampening) * d
                       p = p - lr * (nesterov ? d + momentum * b : b)

With a state_dtype b and this arithmetic are of at least float32. With a master copy, in float32, p is
computed and kept there, and the parameter is p rounded. With an average a, last, of p before it is rounded,

    a = a + (1 - ema_decay) * (p - a)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fastmodel.ops.batch import AVERAGE, MASTER, Batch, wide_dtype


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """One step of every parameter of the batches, in place; state as in `torch.optim.SGD`."""
    if batches[0].is_left_out:
        return
    for batch in batches:
        batch.unscale()
        for i, (param, grad) in enumerate(zip(batch.params, batch.clipped_grads(), strict=True)):
            state = batch.states[i] if batch.states else {}
            dtype = wide_dtype(param, batch.state_dtype)
            new = state[MASTER] if batch.has_master else param.to(dtype)
            _step_one(batch.group, new, grad.to(dtype), state)
            if new is not param:
                param.copy_(new)
            if batch.ema_decay is not None:
                state[AVERAGE].lerp_(new, 1 - batch.ema_decay)


def _step_one(group: dict[str, Any], param: Tensor, grad: Tensor, state: dict[str, Any]) -> None:
    lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
    if group["maximize"]:
        grad = -grad
    if weight_decay != 0:
        grad = grad + weight_decay * param
    if momentum != 0:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            buffer = state["momentum_buffer"] = grad.detach().clone()
        else:
            buffer.mul_(momentum).add_((1 - group["dampening"]) * grad)
        grad = grad + momentum * buffer if group["nesterov"] else buffer
    param.sub_(lr * grad)
