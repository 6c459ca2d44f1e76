"""adam by PyTorch's own for-loop, foreach or fused step, whichever the group's options ask for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from fastmodel.ops.batch import Batch
from fastmodel.ops.tensor_table import strides_agree


def refusal(lead: Tensor, batches: Sequence[Batch]) -> str | None:
    """Why PyTorch's step does not take these batches; None if it does."""
    return next((batch.beyond_pytorch for batch in batches if batch.beyond_pytorch), None)


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As `torch.optim.Adam.step` for these parameters."""
    for batch in batches:
        _step(batch)


def _step(batch: Batch) -> None:
    group = batch.group
    fused, foreach = group["fused"], group["foreach"]
    is_fused_on_cpu = fused and batch.params[0].is_cpu
    if is_fused_on_cpu or not fused:
        if batch.is_left_out:
            return
        batch.unscale()
    if is_fused_on_cpu:
        # PyTorch's fused CPU step walks memory and takes no heed of strides.
        tensors = zip(
            batch.params,
            batch.grads,
            batch.column("exp_avg"),
            batch.column("exp_avg_sq"),
            strict=True,
        )
        if not all(map(strides_agree, tensors)):
            fused, foreach = False, False
    beta1, beta2 = group["betas"]
    adam(
        batch.params,
        batch.clipped_grads(),
        batch.column("exp_avg"),
        batch.column("exp_avg_sq"),
        batch.column("max_exp_avg_sq") if group["amsgrad"] else [],
        batch.column("step"),
        foreach=foreach,
        capturable=group["capturable"],
        differentiable=group["differentiable"],
        fused=fused,
        grad_scale=batch.grad_scale,
        found_inf=batch.found_inf,
        has_complex=any(map(torch.is_complex, batch.params)),
        decoupled_weight_decay=group["decoupled_weight_decay"],
        amsgrad=group["amsgrad"],
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=group["maximize"],
    )
