"""adam by PyTorch's own for-loop, foreach or fused step, whichever the group's options ask for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.adam import adam

from fastmodel.ops.batch import Batch
from fastmodel.ops.tensor_table import strides_agree


def step(lead: Tensor, batch: Batch) -> None:
    """As `torch.optim.Adam.step` for these parameters."""
    group = batch.group
    fused, foreach = group["fused"], group["foreach"]
    if fused and lead.is_cpu:
        if not batch.unscale():
            return
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
