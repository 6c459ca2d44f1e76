"""sgd by PyTorch's own for-loop, foreach or fused step, whichever the group's options ask for."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.optim.sgd import sgd

from fastmodel.ops.batch import Batch
from fastmodel.ops.tensor_table import strides_agree


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why PyTorch's step does not take these batches; None if it does."""
    return next((batch.beyond_pytorch for batch in batches if batch.beyond_pytorch), None)


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As `torch.optim.SGD.step` for these parameters."""
    for batch in batches:
        _step(batch)


def _step(batch: Batch) -> None:
    group = batch.group
    buffers = [state.get("momentum_buffer") for state in batch.states]
    fused, foreach = group["fused"], group["foreach"]
    is_fused_on_cpu = fused and batch.params[0].is_cpu
    if is_fused_on_cpu or not fused:
        if batch.is_left_out:
            return
        batch.unscale()
    if is_fused_on_cpu:
        # PyTorch's fused CPU step walks memory and takes no heed of strides, nor of parameters
        # whose buffer is missing beside others that have theirs.
        columns = [batch.params, batch.grads, *([buffers] if buffers else [])]
        is_mixed = None in buffers and any(buffer is not None for buffer in buffers)
        columns = columns[:2] if None in buffers else columns
        if is_mixed or not all(map(strides_agree, zip(*columns, strict=True))):
            fused, foreach = False, False
    sgd(
        batch.params,
        batch.clipped_grads(),
        buffers,
        has_sparse_grad=any(grad.is_sparse for grad in batch.grads),
        foreach=foreach,
        fused=fused,
        grad_scale=batch.grad_scale,
        found_inf=batch.found_inf,
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
    )
    for state, buffer in zip(batch.states, buffers, strict=True):
        state["momentum_buffer"] = buffer
