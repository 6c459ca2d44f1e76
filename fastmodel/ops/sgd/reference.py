"""sgd in plain PyTorch: the definition, the oracle and the last fallback.

Per element, with d the gradient (clipped, negated to maximize, and d += weight_decay * p):

    without momentum:  p = p - lr * d
    with it:           b = first step ? d : momentum * b + (1 - dampening) * d
                       p = p - lr * (nesterov ? d + momentum * b : b)
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.ops.batch import Batch


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """One step of every parameter of the batches, in place; state as in `torch.optim.SGD`."""
    if batches[0].is_left_out:
        return
    for batch in batches:
        batch.unscale()
        _step(batch)


def _step(batch: Batch) -> None:
    group = batch.group
    lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
    for i, (param, grad) in enumerate(zip(batch.params, batch.clipped_grads(), strict=True)):
        if group["maximize"]:
            grad = -grad
        if weight_decay != 0:
            grad = grad + weight_decay * param
        if momentum != 0:
            state = batch.states[i]
            buffer = state.get("momentum_buffer")
            if buffer is None:
                buffer = state["momentum_buffer"] = grad.detach().clone()
            else:
                buffer.mul_(momentum).add_((1 - group["dampening"]) * grad)
            grad = grad + momentum * buffer if group["nesterov"] else buffer
        param.sub_(lr * grad)
