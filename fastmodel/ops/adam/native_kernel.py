"""Host wrapper of csrc/adam."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fastmodel.env import native
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import threads
from fastmodel.ops.tensor_table import Staging


def keys(group: dict[str, Any]) -> list[str]:
    """The entries of the state that are shaped like the parameter, in the kernel's order."""
    return ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]


def refusal(lead: Tensor, batch: Batch) -> str | None:
    """Why the kernel does not take this batch; None if it does."""
    return batch.refusal


def step_cpu(lead: Tensor, batch: Batch) -> None:
    """As reference.step."""
    if not batch.unscale():
        return
    group = batch.group
    table, staging = batch.table, None
    if table is None:
        staging = Staging()
        columns = [batch.params, batch.grads, *map(batch.column, keys(group))]
        table = staging.read(columns, batch.column("step"))
    beta1, beta2 = group["betas"]
    native().adam_step_cpu(
        table,
        float(group["lr"]),
        float(beta1),
        float(beta2),
        float(group["eps"]),
        float(group["weight_decay"]),
        group["decoupled_weight_decay"],
        batch.grad_factor(),
        threads(),
    )
    if staging is not None:
        staging.write_back()
