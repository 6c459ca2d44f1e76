"""Host wrapper of csrc/sgd on GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel import env
from fastmodel.ops.batch import Batch
from fastmodel.ops.gpu_batch import GpuBatch, waits_for
from fastmodel.ops.sgd.state import make_buffers


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why the kernel does not take these batches; None if it does."""
    for batch in batches:
        why = batch.refusal or waits_for(batch.group, ("momentum", "dampening", "weight_decay"))
        if why is not None:
            return why
    return None


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, one launch a batch."""
    for batch in batches:
        group = batch.group
        has_momentum = group["momentum"] != 0
        is_new = has_momentum and any(s.get("momentum_buffer") is None for s in batch.states)
        if is_new and batch.is_left_out:
            continue  # a step left out leaves no buffer behind; later ones do not wait for the answer
        are_first = make_buffers(batch) if has_momentum else []
        entries = ("momentum_buffer",) * has_momentum + batch.extra_keys
        columns = [batch.params, batch.grads, *map(batch.column, entries)]
        there = GpuBatch(batch, columns, [])
        env.cuda().sgd_step_cuda(
            there.table,
            has_master=batch.has_master,
            ema_decay=batch.ema_decay,
            are_first=are_first,
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            is_nesterov=group["nesterov"],
            **there.options(has_found_inf=True),
        )
        there.write_back()
