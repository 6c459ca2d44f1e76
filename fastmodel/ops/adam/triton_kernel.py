"""adam in Triton: all tensors of a group in one launch, each element once; reference.py has the formulas.

It reads p, g, m, v and writes p, m, v: 28 bytes a float32 parameter, 20 with bfloat16 moments, for about 14
FLOPs: memory-bound by far. What clips, unscales and leaves out stays on the device: no step waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.adam.state import keys
from fastmodel.ops.batch import Batch
from fastmodel.ops.triton_host import on_device
from fastmodel.ops.triton_math import random_bits
from fastmodel.ops.triton_tensor_list import (
    TensorList,
    chunk_of_program,
    on_its_way,
    pointer_to,
    refusal,
    uniform,
)

__all__ = ["refusal", "step"]


@triton.jit(do_not_specialize=["seed"])
def step_kernel(
    addresses, sizes, tensors, chunks, count, params_like, states_like,
    step_sizes, roots, steps, ordinals, clip, grad_scale, found_inf,
    lr, rest1, beta2, rest2, eps, weight_decay, sign, seed,
    IS_DECOUPLED: tl.constexpr, IS_AMSGRAD: tl.constexpr, HAS_CLIP: tl.constexpr,
    HAS_SCALE: tl.constexpr, HAS_FOUND_INF: tl.constexpr, ROUNDS_AT_RANDOM: tl.constexpr,
    IS_ALIGNED: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One step of one chunk; rest1 = 1 - beta1, rest2 = 1 - beta2, from float64."""
    if HAS_FOUND_INF:  # noqa: SIM102 - the outer one is decided when the kernel is compiled
        if tl.load(found_inf) != 0:
            return
    tensor, start, whole, end = chunk_of_program(sizes, tensors, chunks, CHUNK, BLOCK)
    param = pointer_to(addresses, 0, count, tensor, params_like, IS_ALIGNED)
    grad = pointer_to(addresses, 1, count, tensor, params_like, IS_ALIGNED)
    first = pointer_to(addresses, 2, count, tensor, states_like, IS_ALIGNED)
    second = pointer_to(addresses, 3, count, tensor, states_like, IS_ALIGNED)
    largest = first
    if IS_AMSGRAD:
        largest = pointer_to(addresses, 4, count, tensor, states_like, IS_ALIGNED)
    factor = sign
    if HAS_CLIP:
        factor = sign * tl.load(clip)
    scale = 1.0
    if HAS_SCALE:
        scale = tl.load(grad_scale)
    step_size, root = tl.load(step_sizes + tensor), tl.load(roots + tensor)
    ordinal, step = tl.load(ordinals + tensor), tl.load(steps + tensor)
    for block in range(start, whole, BLOCK):
        _step_block(
            param, grad, first, second, largest, block + tl.arange(0, BLOCK), None,
            factor, scale, step_size, root, ordinal, step,
            lr, rest1, beta2, rest2, eps, weight_decay, seed,
            IS_DECOUPLED, IS_AMSGRAD, HAS_SCALE, ROUNDS_AT_RANDOM,
        )  # fmt: skip
    if whole < end:
        at = whole + tl.arange(0, BLOCK)
        _step_block(
            param, grad, first, second, largest, at, at < end,
            factor, scale, step_size, root, ordinal, step,
            lr, rest1, beta2, rest2, eps, weight_decay, seed,
            IS_DECOUPLED, IS_AMSGRAD, HAS_SCALE, ROUNDS_AT_RANDOM,
        )  # fmt: skip


@triton.jit
def _step_block(
    param, grad, first, second, largest, at, mask,
    factor, scale, step_size, root, ordinal, step,
    lr, rest1, beta2, rest2, eps, weight_decay, seed,
    IS_DECOUPLED: tl.constexpr, IS_AMSGRAD: tl.constexpr, HAS_SCALE: tl.constexpr,
    ROUNDS_AT_RANDOM: tl.constexpr,
):  # fmt: skip
    g = tl.load(grad + at, mask=mask).to(tl.float32)
    if HAS_SCALE:
        g = g / scale
        tl.store(grad + at, g.to(grad.dtype.element_ty), mask=mask)
    d = g * factor
    p = tl.load(param + at, mask=mask).to(tl.float32)
    if IS_DECOUPLED:
        p = p * (1 - lr * weight_decay)
    else:
        if weight_decay != 0:
            d += weight_decay * p
    m = tl.load(first + at, mask=mask).to(tl.float32)
    # As torch.lerp: from the nearer end, which for infinities is another result.
    m = tl.where(rest1 < 0.5, m + rest1 * (d - m), d - (1 - rest1) * (d - m))
    v = beta2 * tl.load(second + at, mask=mask).to(tl.float32) + rest2 * d * d
    s = v
    if IS_AMSGRAD:
        before = tl.load(largest + at, mask=mask).to(tl.float32)
        s = tl.where((v > before) | (v != v), v, before)
    p -= step_size * m / (tl.sqrt_rn(s) / root + eps)
    tl.store(param + at, p.to(param.dtype.element_ty), mask=mask)

    if ROUNDS_AT_RANDOM:
        bits = random_bits(at, ordinal, step, seed)
        m, v, s = _round(m, bits & 0xFFFF), _round(v, bits >> 16), _round(s, bits >> 16)
    tl.store(first + at, m.to(first.dtype.element_ty), mask=mask)
    tl.store(second + at, v.to(second.dtype.element_ty), mask=mask)
    if IS_AMSGRAD:
        tl.store(largest + at, s.to(largest.dtype.element_ty), mask=mask)


@triton.jit
def _round(value, bits):
    """float32 values that bfloat16 holds: value, rounded by 16 random bits; NaN stays NaN."""
    cut = (value.to(tl.uint32, bitcast=True) + bits) & 0xFFFF0000
    return tl.where(value == value, cut.to(tl.float32, bitcast=True), value)


def corrections(steps: Tensor, lr: float, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
    """lr / (1 - beta1^t) and sqrt(1 - beta2^t) of float64 step counts, which come out in float32."""
    return (lr / (1 - beta1**steps)).float(), (1 - beta2**steps).sqrt().float()


def step(lead: Tensor, batches: Sequence[Batch]) -> None:
    """As reference.step, one launch for each group, device and dtype."""
    for batch in uniform(batches):
        _step(batch)


def _step(batch: Batch) -> None:
    group = batch.group
    beta1, beta2 = map(float, group["betas"])
    lr = float(group["lr"])
    found_inf = batch.found_inf
    counts = batch.column("step")
    with on_device(batch.params[0]):
        table = TensorList(
            [batch.params, batch.grads, *map(batch.column, keys(group))],
            batch.grad_scale is not None,
        )
        device = table.device
        torch._foreach_add_(counts, 1)
        steps = torch.stack([count.reshape(()) for count in counts]).double()
        step_sizes, roots = (on_its_way(each, device) if each.is_cpu else each
                             for each in corrections(steps, lr, beta1, beta2))  # fmt: skip
        table.launch(
            step_kernel,
            batch.params[0],
            batch.states[0]["exp_avg"],
            step_sizes,
            roots,
            on_its_way(steps.long(), device) if steps.is_cpu else steps.long(),
            on_its_way(torch.tensor(batch.ordinals), device),
            batch.on_device("clip"),
            batch.on_device("grad_scale"),
            batch.on_device("found_inf"),
            lr,
            1 - beta1,
            beta2,
            1 - beta2,
            float(group["eps"]),
            float(group["weight_decay"]),
            -1.0 if group["maximize"] else 1.0,
            torch.initial_seed(),
            IS_DECOUPLED=group["decoupled_weight_decay"],
            IS_AMSGRAD=group["amsgrad"],
            HAS_CLIP=batch.clip is not None,
            HAS_SCALE=batch.grad_scale is not None,
            HAS_FOUND_INF=found_inf is not None,
            ROUNDS_AT_RANDOM=batch.state_dtype == torch.bfloat16,
        )
        if found_inf is not None:
            # Steps that were left out do not count.
            torch._foreach_sub_(counts, [found_inf.to(counts[0].device)] * len(counts))
