"""Host wrapper of csrc/sgd."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import threads
from fastmodel.ops.sgd.state import make_buffers
from fastmodel.ops.tensor_table import Staging


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why the kernel does not take these batches; None if it does."""
    for batch in batches:
        if batch.refusal is not None:
            return batch.refusal
        if batch.extra_keys:
            return "master copies and averages are the GPU's"
    return None


def step_cpu(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, all batches in one parallel region."""
    if batches[0].is_left_out:
        return
    groups, stagings = [], []
    for batch in batches:
        group = batch.group
        has_momentum = group["momentum"] != 0
        table = batch.table
        are_first = [False] * len(batch.params) if has_momentum else []
        if table is None:
            batch.unscale()
            staging = Staging()
            columns = [batch.params, batch.grads]
            if has_momentum:
                are_first = make_buffers(batch)
                columns.append(batch.column("momentum_buffer"))
            table = staging.read(columns, [], batch.ordinals, None)
            stagings.append(staging)
        groups.append(
            native().SgdGroup(
                table,
                are_first=are_first,
                lr=float(group["lr"]),
                momentum=float(group["momentum"]),
                dampening=float(group["dampening"]),
                weight_decay=float(group["weight_decay"]),
                is_nesterov=group["nesterov"],
                **batch.grad_factors(),
            )
        )
    native().sgd_step_cpu(groups, threads())
    for staging in stagings:
        staging.write_back()
