"""sgd in Triton: all tensors of a group in one launch, each element once; reference.py has the formulas.

It reads p, g and writes p, with momentum reads and writes b too: 12 or 20 bytes a float32 parameter for up to
7 FLOPs: memory-bound by far. What clips and unscales stays on the device: no step waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.batch import Batch
from fastmodel.ops.sgd.state import make_buffers
from fastmodel.ops.triton_host import on_device
from fastmodel.ops.triton_tensor_list import (
    TensorList,
    chunk_of_program,
    on_its_way,
    pointer_to,
    refusal,
    uniform,
)

__all__ = ["refusal", "step"]


@triton.jit
def step_kernel(
    addresses, sizes, tensors, chunks, count, params_like, are_later, clip, grad_scale, found_inf,
    lr, momentum, rest, weight_decay, sign,
    HAS_MOMENTUM: tl.constexpr, IS_NESTEROV: tl.constexpr, HAS_CLIP: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_FOUND_INF: tl.constexpr,
    IS_ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of one chunk; rest = 1 - dampening."""
    if HAS_FOUND_INF:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
        if tl.load(found_inf) != 0:
            return
    tensor, start, whole, end = chunk_of_program(sizes, tensors, chunks, CHUNK, BLOCK)
    param = pointer_to(addresses, 0, count, tensor, params_like, IS_ALIGNED)
    grad = pointer_to(addresses, 1, count, tensor, params_like, IS_ALIGNED)
    buffer, is_later = param, 0
    if HAS_MOMENTUM:
        buffer = pointer_to(addresses, 2, count, tensor, params_like, IS_ALIGNED)
        is_later = tl.load(are_later + tensor)
    factor = sign
    if HAS_CLIP:
        factor = sign * tl.load(clip)
    scale = 1.0
    if HAS_SCALE:
        scale = tl.load(grad_scale)
    for block in range(start, whole, BLOCK):
        _step_block(
            param, grad, buffer, block + tl.arange(0, BLOCK), None, is_later, factor, scale,
            lr, momentum, rest, weight_decay, HAS_MOMENTUM, IS_NESTEROV, HAS_SCALE,
        )  # fmt: skip
    if whole < end:
        at = whole + tl.arange(0, BLOCK)
        _step_block(
            param, grad, buffer, at, at < end, is_later, factor, scale,
            lr, momentum, rest, weight_decay, HAS_MOMENTUM, IS_NESTEROV, HAS_SCALE,
        )  # fmt: skip


@triton.jit
def _step_block(
    param, grad, buffer, at, mask, is_later, factor, scale, lr, momentum, rest, weight_decay,
    HAS_MOMENTUM: tl.constexpr, IS_NESTEROV: tl.constexpr, HAS_SCALE: tl.constexpr,
):  # fmt: skip
    g = tl.load(grad + at, mask=mask).to(tl.float32)
    if HAS_SCALE:
        g = g / scale
        tl.store(grad + at, g.to(grad.dtype.element_ty), mask=mask)
    d = g * factor
    p = tl.load(param + at, mask=mask).to(tl.float32)
    if weight_decay != 0:
        d += weight_decay * p
    if HAS_MOMENTUM:
        # A buffer that is new holds anything: what is read of it is dropped.
        before = tl.load(buffer + at, mask=mask).to(tl.float32)
        b = tl.where(is_later != 0, momentum * before + rest * d, d)
        tl.store(buffer + at, b.to(buffer.dtype.element_ty), mask=mask)
        if IS_NESTEROV:
            d += momentum * b
        else:
            d = b
    tl.store(param + at, (p - lr * d).to(param.dtype.element_ty), mask=mask)


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, one launch for each group, device and dtype."""
    if any(batch.group["momentum"] != 0 for batch in batches) and batches[0].is_left_out:
        # A step that is left out makes no buffers: whether it is must be known before.
        return
    for batch in uniform(batches):
        _step(batch)


def _step(batch: Batch) -> None:
    group = batch.group
    has_momentum = group["momentum"] != 0
    columns = [batch.params, batch.grads]
    are_later = [False] * len(batch.params)
    if has_momentum:
        are_later = [not is_first for is_first in make_buffers(batch)]
        columns.append(batch.column("momentum_buffer"))
    with on_device(batch.params[0]):
        table = TensorList(columns, batch.grad_scale is not None)
        table.launch(
            step_kernel,
            batch.params[0],
            on_its_way(torch.tensor(are_later, dtype=torch.int32), table.device),
            batch.on_device("clip"),
            batch.on_device("grad_scale"),
            batch.on_device("found_inf"),
            float(group["lr"]),
            float(group["momentum"]),
            1 - float(group["dampening"]),
            float(group["weight_decay"]),
            -1.0 if group["maximize"] else 1.0,
            HAS_MOMENTUM=has_momentum,
            IS_NESTEROV=group["nesterov"],
            HAS_CLIP=batch.clip is not None,
            HAS_SCALE=batch.grad_scale is not None,
            HAS_FOUND_INF=batch.found_inf is not None,
        )
