"""Host wrapper of csrc/adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.adam.state import keys
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import threads
from fastmodel.ops.tensor_table import Staging


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why the kernel does not take these batches; None if it does."""
    for batch in batches:
        if batch.refusal is not None:
            return batch.refusal
        if batch.extra_keys:
            return "master copies and averages are the GPU's"
        if batch.state_dtype not in (None, torch.bfloat16, batch.params[0].dtype):
            return "float32 moments of other parameters are the GPU's"
    return None


def step_cpu(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, all batches in one parallel region."""
    if batches[0].is_left_out:
        return
    groups, stagings = [], []
    for batch in batches:
        table = batch.table
        if table is None:
            batch.unscale()
            staging = Staging()
            columns = [batch.params, batch.grads, *map(batch.column, keys(batch.group))]
            table = staging.read(columns, batch.column("step"), batch.ordinals, batch.state_dtype)
            stagings.append(staging)
        groups.append(_group(batch, table))
    native().adam_step_cpu(groups, threads())
    for staging in stagings:
        staging.write_back()


def _group(batch: Batch, table: Any) -> Any:
    group = batch.group
    beta1, beta2 = group["betas"]
    return native().AdamGroup(
        table,
        lr=float(group["lr"]),
        beta1=float(beta1),
        beta2=float(beta2),
        eps=float(group["eps"]),
        weight_decay=float(group["weight_decay"]),
        is_decoupled=group["decoupled_weight_decay"],
        rounding_seed=torch.initial_seed() if batch.state_dtype == torch.bfloat16 else None,
        **batch.grad_factors(),
    )
