"""The factor that clips an optimizer's gradients by their global norm, over all of its batches."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel import env
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import address, stream, threads


def clip_factor(batches: Sequence[Batch], max_grad_norm: float) -> Tensor:
    """That of `torch.nn.utils.clip_grad_norm_`: a tensor of one element.

    Gradients in tables are summed in float64, in one sweep; the others by PyTorch. Where all are in tables on
    one GPU, nothing is waited for.
    """
    by_device: dict[torch.device, list[Batch]] = {}
    for batch in batches:
        if batch.is_for_gpu and batch.table is not None:
            by_device.setdefault(batch.params[0].device, []).append(batch)
    others = [batch for batch in batches if not (batch.is_for_gpu and batch.table is not None)]
    scale = batches[0].grad_scale
    sums = [_square_sum_gpu(found) for found in by_device.values()]
    if len(sums) == 1 and not others:
        return _clip_gpu(sums[0], max_grad_norm, scale)
    norm = _norm(others)
    if sums:
        total = norm.to(torch.float64).square()
        norm = sum((s.to(total.device) for s in sums), total).sqrt()
    if scale is not None:
        norm = norm / scale.to(norm.device)
    return torch.clamp(max_grad_norm / (norm + 1e-6), max=1.0)


def _norm(batches: Sequence[Batch]) -> Tensor:
    """Of the gradients on the CPU, and of those that are in no table."""
    tables = [batch.table for batch in batches if batch.table is not None]
    others = [grad for batch in batches if batch.table is None for grad in batch.grads]
    norm = torch.nn.utils.get_total_norm(others)
    if not tables:
        return norm
    square_sum = env.native().grad_square_sum_cpu(tables, threads())
    return torch.tensor(math.sqrt(square_sum + norm.item() ** 2), dtype=torch.float64)


def _square_sum_gpu(batches: Sequence[Batch]) -> Tensor:
    """Of the gradients of batches on one device."""
    lead = batches[0].params[0]
    tables = [batch.table for batch in batches]
    where = stream(lead)
    parts = env.cuda().grad_square_sum_parts_cuda(tables, where)
    # The last element is the sum of the others.
    sums = torch.empty(parts + 1, dtype=torch.float64, device=lead.device)
    total = sums[parts]
    env.cuda().grad_square_sum_cuda(tables, address(sums), address(total), where)
    return total


def _clip_gpu(square_sum: Tensor, max_grad_norm: float, scale: Tensor | None) -> Tensor:
    clip = torch.empty((), dtype=torch.float32, device=square_sum.device)
    if scale is not None:
        scale = scale.to(square_sum.device, torch.float32)
    env.cuda().grad_clip_cuda(
        address(square_sum), max_grad_norm, address(scale), address(clip), stream(square_sum)
    )
    return clip
