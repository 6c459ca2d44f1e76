"""linear_cross_entropy with a softmax in Triton between PyTorch's products; the loop stands in library.py.

One program has a row of a chunk's logits: it finds max and sum by rescaling the sum where the max grows,
then writes the gradient over the logits. Bytes an element in bfloat16: 2 for the loss, 6 with the gradient,
of which the second read of a row of some 100 KiB comes from cache. One exp an element and walk: memory-
bound, beside products of 6 D FLOPs an element.

A class index that is neither in range nor ignored makes NaN of its row: on a GPU there is nobody to raise an
error without waiting for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.class_loss import NONE
from fastmodel.ops.linear_cross_entropy.library import (
    Problem,
    Step,
    losses,
    losses_and_gradients,
    reduced,
)
from fastmodel.ops.linear_cross_entropy.reference import no_gradients
from fastmodel.ops.triton_host import on_device

MOST_CLASSES = 4096
"""Of one block: 16 a thread of 8 warps, so that loads of several rows' blocks are in flight."""


@triton.jit
def softmax_kernel(
    logits,
    target,
    weight,
    scales,
    loss,
    classes,
    ignore_index,
    keep,
    smooth,
    HAS_WEIGHT: tl.constexpr,
    SMOOTHS: tl.constexpr,
    WANTS_GRADIENT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss[row], and scales[row] times its gradient in place of the logits."""
    row = tl.program_id(0).to(tl.int64)
    logits_row = logits + row * classes
    label = tl.load(target + row)
    is_ignored = label == ignore_index
    is_wrong = ((label < 0) | (label >= classes)) & (label != ignore_index)
    label = tl.where(is_ignored | is_wrong, 0, label)
    hot = keep
    if HAS_WEIGHT:
        hot = keep * tl.load(weight + label)
    hot = tl.where(is_wrong, float("nan"), hot)

    highest = -float("inf")
    lanes = tl.zeros([BLOCK], tl.float32)
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(logits_row + at, mask=at < classes, other=-float("inf")).to(tl.float32)
        grown = tl.maximum(highest, tl.max(z))
        # Where all is -inf so far: exp(-inf - 0) = 0, no NaN yet.
        shift = tl.where(grown == -float("inf"), 0.0, grown)
        lanes = lanes * tl.exp(highest - shift) + tl.exp(z - shift)
        highest = grown
    log_sum = tl.log(tl.sum(lanes))

    total = hot * (tl.load(logits_row + label).to(tl.float32) - highest - log_sum)
    share_sum = hot
    if SMOOTHS:
        products = tl.zeros([BLOCK], tl.float32)
        shares = tl.zeros([BLOCK], tl.float32)
        for start in range(0, classes, BLOCK):
            at = start + tl.arange(0, BLOCK)
            mask = at < classes
            log_p = (
                tl.load(logits_row + at, mask=mask, other=0.0).to(tl.float32) - highest - log_sum
            )
            share = _share(weight, at, mask, smooth, HAS_WEIGHT)
            products += tl.where(mask, share * log_p, 0.0)
            shares += share
        total += tl.sum(products)
        share_sum += tl.sum(shares)
    tl.store(loss + row, tl.where(is_ignored, 0.0, -total))

    if WANTS_GRADIENT:
        scale = tl.load(scales + row)
        for start in range(0, classes, BLOCK):
            at = start + tl.arange(0, BLOCK)
            mask = at < classes
            log_p = (
                tl.load(logits_row + at, mask=mask, other=0.0).to(tl.float32) - highest - log_sum
            )
            q = tl.where(at == label, hot, 0.0)
            if SMOOTHS:
                q += _share(weight, at, mask, smooth, HAS_WEIGHT)
            d = scale * (tl.exp(log_p) * share_sum - q)
            tl.store(logits_row + at, d.to(logits.dtype.element_ty), mask=mask)


@triton.jit
def _share(weight, at, mask, smooth, HAS_WEIGHT: tl.constexpr):
    """What smoothing gives each class of a block; 0 beyond the last class."""
    if HAS_WEIGHT:
        return smooth * tl.load(weight + at, mask=mask, other=0.0)
    else:
        return tl.where(mask, smooth, 0.0)


def _step(p: Problem, scales: Tensor | None) -> Step:
    """The softmax of a chunk; without `scales` there is no gradient."""
    w, target, classes = p.wide_class_weight(), p.target.contiguous(), p.weight.shape[0]
    block = min(max(triton.next_power_of_2(classes), 16), MOST_CLASSES)
    scales = None if scales is None else scales.contiguous()

    def step(logits: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        loss = logits.new_empty(len(logits), dtype=torch.float32)
        with on_device(logits):
            softmax_kernel[(len(logits),)](
                logits,
                target[part],
                loss if w is None else w,
                loss if scales is None else scales[part],
                loss,
                classes,
                p.ignore_index,
                1.0 - p.label_smoothing,
                p.label_smoothing / classes,
                HAS_WEIGHT=w is not None,
                SMOOTHS=p.label_smoothing > 0,
                WANTS_GRADIENT=scales is not None,
                BLOCK=block,
                num_warps=min(max(block // 512, 1), 8),
            )
        return loss, logits

    return step


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As reference.forward, but for class indices out of range."""
    options = (ignore_index, reduction, label_smoothing)
    p = Problem(x, weight, bias, target, class_weight, *options, wanted)
    if reduction == NONE or not any(wanted):
        return reduced(p, losses(p, _step(p, None))), *no_gradients(x)
    rows, found = losses_and_gradients(p, _step(p, p.scales(x.new_ones((), dtype=p.wide))))
    return reduced(p, rows), *found


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    class_weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward, but for class indices out of range."""
    options = (ignore_index, reduction, label_smoothing)
    p = Problem(x, weight, bias, target, class_weight, *options, wanted)
    return losses_and_gradients(p, _step(p, p.scales(grad)))[1]
