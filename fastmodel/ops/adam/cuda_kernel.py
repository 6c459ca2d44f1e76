"""Host wrapper of csrc/adam on GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel import env
from fastmodel.ops.adam.state import keys
from fastmodel.ops.batch import Batch
from fastmodel.ops.gpu_batch import GpuBatch, waits_for


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why the kernel does not take these batches; None if it does."""
    for batch in batches:
        if batch.refusal is not None:
            return batch.refusal
        if batch.state_dtype == torch.bfloat16:
            return "bfloat16 moments, rounded at random, are the CPU's"
        waits = waits_for(batch.group, ("betas", "eps", "weight_decay"))
        if waits is not None:
            return waits
    return None


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, one launch a batch."""
    for batch in batches:
        are_counts_there = _are_counts_there(batch)
        if not are_counts_there and batch.is_left_out:
            continue
        group = batch.group
        entries = map(batch.column, (*keys(group), *batch.extra_keys))
        columns = [batch.params, batch.grads, *entries]
        there = GpuBatch(batch, columns, batch.column("step"))
        env.cuda().adam_step_cuda(
            there.table,
            is_amsgrad=group["amsgrad"],
            has_master=batch.has_master,
            ema_decay=batch.ema_decay,
            are_counts_on_device=are_counts_there,
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            eps=float(group["eps"]),
            is_decoupled=group["decoupled_weight_decay"],
            **there.options(has_found_inf=are_counts_there),
        )
        there.write_back()


def _are_counts_there(batch: Batch) -> bool:
    """Do the step counts lie on the GPU? Emulated, where they would."""
    if batch.params[0].is_cpu:
        return bool(batch.group["fused"] or batch.group["capturable"])
    return not batch.states[0]["step"].is_cpu
