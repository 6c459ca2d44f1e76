"""Host wrapper of csrc/sgd."""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import threads
from fastmodel.ops.tensor_table import Staging


def refusal(lead: Tensor, batch: Batch) -> str | None:
    """Why the kernel does not take this batch; None if it does."""
    return batch.refusal


def step_cpu(lead: Tensor, batch: Batch) -> None:
    """As reference.step."""
    if not batch.unscale():
        return
    group = batch.group
    has_momentum = group["momentum"] != 0
    table, staging = batch.table, None
    are_first = [False] * len(batch.params) if has_momentum else []
    if table is None:
        staging = Staging()
        columns = [batch.params, batch.grads]
        if has_momentum:
            are_first = [state.get("momentum_buffer") is None for state in batch.states]
            _make_buffers(batch)
            columns.append(batch.column("momentum_buffer"))
        table = staging.read(columns, [])
    native().sgd_step_cpu(
        table,
        are_first,
        float(group["lr"]),
        float(group["momentum"]),
        float(group["dampening"]),
        float(group["weight_decay"]),
        group["nesterov"],
        batch.grad_factor(),
        threads(),
    )
    if staging is not None:
        staging.write_back()


def _make_buffers(batch: Batch) -> None:
    for param, state in zip(batch.params, batch.states, strict=True):
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.empty_like(param, requires_grad=False)
