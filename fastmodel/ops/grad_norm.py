"""The factor that clips an optimizer's gradients by their global norm, over all of its batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel import env
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import address, stream, threads


def square_sums(batches: Sequence[Batch]) -> list[Tensor]:
    """Of all gradients of batches with tables, as they lie: a float64 of each device.

    No square of a finite gradient overflows, so a sum is finite if all its gradients are. On a GPU nothing is
    waited for.
    """
    by_device: dict[tuple[torch.device, bool], list[Batch]] = {}
    for batch in batches:
        by_device.setdefault((batch.params[0].device, batch.is_for_gpu), []).append(batch)
    return [
        _square_sum_gpu(found) if is_for_gpu else _square_sum_cpu(found)
        for (_, is_for_gpu), found in by_device.items()
    ]


def clip_factor(
    batches: Sequence[Batch], max_grad_norm: float, sums: list[Tensor] | None = None
) -> Tensor:
    """That of `torch.nn.utils.clip_grad_norm_`: a tensor of one element.

    Gradients in tables are summed in float64, in one sweep; the others by PyTorch. Where all are in tables on
    one GPU, nothing is waited for. `sums` are those of `square_sums`, where all have been summed already.
    """
    if sums is None:
        sums = square_sums([batch for batch in batches if batch.table is not None])
    others = [grad for batch in batches if batch.table is None for grad in batch.grads]
    scale = batches[0].grad_scale
    if len(sums) == 1 and not others and batches[0].is_for_gpu:
        return _clip_gpu(sums[0], max_grad_norm, scale)
    if others:
        norm = torch.nn.utils.get_total_norm(others)
        sums = [norm.to(torch.float64).square(), *sums]
    if len(sums) > 1 or not others:
        norm = sum((s.to(sums[0].device) for s in sums[1:]), sums[0]).sqrt()
    if scale is not None:
        norm = norm / scale.to(norm.device)
    return torch.clamp(max_grad_norm / (norm + 1e-6), max=1.0)


def _square_sum_cpu(batches: Sequence[Batch]) -> Tensor:
    tables = [batch.table for batch in batches]
    return torch.tensor(env.native().grad_square_sum_cpu(tables, threads()), dtype=torch.float64)


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
