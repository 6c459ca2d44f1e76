"""cross_entropy in Triton; the formulas stand in reference.py.

One program a row walks over the classes in blocks, however many there are:

    1  max, and log_sum by rescaling the sum where the max grows         always
    2  sums over all classes that the loss or the gradient needs         for smoothing and probabilities
    3  grad_x = scale (p sum(q) - q), p = exp(x - max - log_sum)         where a gradient is wanted

Bytes an element in bfloat16: 2 for the loss, 6 with the gradient (x comes in twice; rows of up to 100 KiB or
so are still in cache the second time, which makes that 4). One exp an element and walk: memory-bound.

A class index that is neither in range nor ignored makes NaN of its row's loss and gradient: on a GPU there is
nobody to raise an error without waiting for the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops.cross_entropy import reference
from fastmodel.ops.cross_entropy.native_kernel import laid_out
from fastmodel.ops.cross_entropy.reference import MEAN, NONE, classes_back
from fastmodel.ops.triton_host import on_device, sum_rows

MOST_CLASSES = 4096
"""Of one block: 16 a thread of 8 warps, so that loads of several rows' blocks are in flight."""
INDICES = 1024


def block_of(classes: int) -> tuple[int, int]:
    """Classes of one block, and its warps."""
    block = min(max(triton.next_power_of_2(classes), 16), MOST_CLASSES)
    return block, min(max(block // 512, 1), 8)


@triton.jit
def divisor_kernel(
    index,
    weight,
    partials,
    rows,
    classes,
    ignore_index,
    HAS_WEIGHT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """partials[program] = sum over its rows of the weight of the class, 1 without weights; 0 if ignored."""
    program = tl.program_id(0).to(tl.int64)
    row = program * BLOCK + tl.arange(0, BLOCK)
    label = tl.load(index + row, mask=row < rows, other=ignore_index)
    is_counted = (row < rows) & (label != ignore_index)
    if HAS_WEIGHT:
        # A wrong index makes NaN elsewhere; here nothing is read for it.
        is_class = is_counted & (label >= 0) & (label < classes)
        counts = tl.load(weight + label, mask=is_class, other=0.0).to(tl.float32)
    else:
        counts = tl.where(is_counted, 1.0, 0.0)
    tl.store(partials + program, tl.sum(counts))


@triton.jit
def forward_kernel(
    x,
    index,
    probabilities,
    weight,
    divisor,
    loss,
    stats,
    grad_x,
    rows,
    classes,
    ignore_index,
    keep,
    smooth,
    HAS_INDEX: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    SMOOTHS: tl.constexpr,
    DIVIDES: tl.constexpr,
    KEEPS_STATS: tl.constexpr,
    WANTS_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss[row], over the divisor if it DIVIDES; its max and log_sum, and its gradient by x."""
    row = tl.program_id(0).to(tl.int64)
    x_row = x + row * classes
    label, is_ignored, label_weight = _label(
        index, weight, row, classes, ignore_index, HAS_INDEX, HAS_WEIGHT
    )

    highest = -float("inf")
    lanes = tl.zeros([BLOCK], tl.float32)
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        logits = tl.load(x_row + at, mask=at < classes, other=-float("inf")).to(tl.float32)
        grown = tl.maximum(highest, tl.max(logits))
        # Where all is -inf so far: exp(-inf - 0) = 0, no NaN yet.
        shift = tl.where(grown == -float("inf"), 0.0, grown)
        lanes = lanes * tl.exp(highest - shift) + tl.exp(logits - shift)
        highest = grown
    log_sum = tl.log(tl.sum(lanes))
    if KEEPS_STATS:
        tl.store(stats + row, highest)
        tl.store(stats + rows + row, log_sum)

    total, share_sum = _sums(
        x_row, probabilities + row * classes, weight, highest, log_sum, classes, keep, smooth,
        HAS_INDEX, HAS_WEIGHT, SMOOTHS, BLOCK,
    )  # fmt: skip
    count = 1.0
    if DIVIDES:
        count = tl.load(divisor)
    scale = 1 / count
    if HAS_INDEX:
        own = tl.load(x_row + label).to(tl.float32) - highest - log_sum
        total = keep * label_weight * own + total
        share_sum = keep * label_weight + share_sum
        scale = tl.where(is_ignored, 0.0, scale)
        total = tl.where(is_ignored, 0.0, total)
    tl.store(loss + row, (-total / count).to(loss.dtype.element_ty))
    if WANTS_X:
        _store_gradients(
            x_row, probabilities + row * classes, weight, grad_x + row * classes, grad_x,
            highest, log_sum, classes, label, label_weight, share_sum, scale, keep, smooth,
            HAS_INDEX, HAS_WEIGHT, True, False, BLOCK,
        )  # fmt: skip


@triton.jit
def backward_kernel(
    grad,
    x,
    index,
    probabilities,
    weight,
    stats,
    grad_x,
    grad_target,
    rows,
    classes,
    ignore_index,
    keep,
    smooth,
    HAS_INDEX: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    SMOOTHS: tl.constexpr,
    DIVIDES: tl.constexpr,
    HAS_ROWS: tl.constexpr,
    WANTS_X: tl.constexpr,
    WANTS_TARGET: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_x and grad_target of one row; grad is one value unless it HAS_ROWS."""
    row = tl.program_id(0).to(tl.int64)
    x_row, target_row = x + row * classes, probabilities + row * classes
    label, is_ignored, label_weight = _label(
        index, weight, row, classes, ignore_index, HAS_INDEX, HAS_WEIGHT
    )
    highest, log_sum = tl.load(stats + row), tl.load(stats + rows + row)
    scale = tl.load(grad + row if HAS_ROWS else grad).to(tl.float32)
    if DIVIDES:
        scale = scale / tl.load(stats + 2 * rows)
    _, share_sum = _sums(
        x_row, target_row, weight, highest, log_sum, classes, keep, smooth,
        HAS_INDEX, HAS_WEIGHT, SMOOTHS, BLOCK,
    )  # fmt: skip
    if HAS_INDEX:
        share_sum = keep * label_weight + share_sum
        scale = tl.where(is_ignored, 0.0, scale)
    _store_gradients(
        x_row, target_row, weight, grad_x + row * classes, grad_target + row * classes,
        highest, log_sum, classes, label, label_weight, share_sum, scale, keep, smooth,
        HAS_INDEX, HAS_WEIGHT, WANTS_X, WANTS_TARGET, BLOCK,
    )  # fmt: skip


@triton.jit
def _label(
    index, weight, row, classes, ignore_index, HAS_INDEX: tl.constexpr, HAS_WEIGHT: tl.constexpr
):
    """The class of a row, is it ignored, and the class's weight: NaN if there is no such class."""
    label = tl.zeros([], tl.int64)
    is_ignored = label != 0
    label_weight = label.to(tl.float32) + 1.0
    if HAS_INDEX:
        label = tl.load(index + row)
        is_ignored = label == ignore_index
        is_wrong = ((label < 0) | (label >= classes)) & (label != ignore_index)
        label = tl.where(is_ignored | is_wrong, 0, label)
        if HAS_WEIGHT:
            label_weight = tl.load(weight + label).to(tl.float32)
        label_weight = tl.where(is_wrong, float("nan"), label_weight)
    return label, is_ignored, label_weight


@triton.jit
def _weights(weight, at, mask, HAS_WEIGHT: tl.constexpr):
    """The weights of a block of classes; 0 beyond the last class."""
    if HAS_WEIGHT:
        found = tl.load(weight + at, mask=mask, other=0.0).to(tl.float32)
    else:
        found = tl.where(mask, 1.0, 0.0)
    return found


@triton.jit
def _sums(
    x_row, target_row, weight, highest, log_sum, classes, keep, smooth,
    HAS_INDEX: tl.constexpr, HAS_WEIGHT: tl.constexpr, SMOOTHS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """sum of q log_p, and of q, over all classes; with an index of what smoothing alone gives q."""
    products = tl.zeros([BLOCK], tl.float32)
    shares = tl.zeros([BLOCK], tl.float32)
    if SMOOTHS or not HAS_INDEX:
        for start in range(0, classes, BLOCK):
            at = start + tl.arange(0, BLOCK)
            mask = at < classes
            share = tl.zeros([BLOCK], tl.float32) + smooth
            if not HAS_INDEX:
                share += keep * tl.load(target_row + at, mask=mask, other=0.0).to(tl.float32)
            share *= _weights(weight, at, mask, HAS_WEIGHT)
            log_p = tl.load(x_row + at, mask=mask, other=0.0).to(tl.float32) - highest - log_sum
            products += tl.where(mask, share * log_p, 0.0)
            shares += share
    return tl.sum(products), tl.sum(shares)


@triton.jit
def _store_gradients(
    x_row, target_row, weight, grad_x_row, grad_target_row,
    highest, log_sum, classes, label, label_weight, share_sum, scale, keep, smooth,
    HAS_INDEX: tl.constexpr, HAS_WEIGHT: tl.constexpr, WANTS_X: tl.constexpr,
    WANTS_TARGET: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    for start in range(0, classes, BLOCK):
        at = start + tl.arange(0, BLOCK)
        mask = at < classes
        log_p = tl.load(x_row + at, mask=mask, other=0.0).to(tl.float32) - highest - log_sum
        weights = _weights(weight, at, mask, HAS_WEIGHT)
        if WANTS_X:
            q = smooth * weights
            if HAS_INDEX:
                q += tl.where(at == label, keep * label_weight, 0.0)
            else:
                q += keep * weights * tl.load(target_row + at, mask=mask, other=0.0).to(tl.float32)
            found = scale * (tl.exp(log_p) * share_sum - q)
            tl.store(grad_x_row + at, found.to(grad_x_row.dtype.element_ty), mask=mask)
        if WANTS_TARGET:
            found = -scale * keep * weights * log_p
            tl.store(grad_target_row + at, found.to(grad_target_row.dtype.element_ty), mask=mask)


def _problem(x: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float) -> dict:
    """What both kernels take by name; x, target and weight are contiguous, classes last."""
    has_index = not target.is_floating_point()
    classes = x.shape[-1]
    block, warps = block_of(classes)
    return {
        "x": x,
        "index": target if has_index else x,
        "probabilities": x if has_index else target,
        "weight": x if weight is None else weight,
        "rows": x.numel() // classes,
        "classes": classes,
        "keep": 1.0 - label_smoothing,
        "smooth": label_smoothing / classes,
        "HAS_INDEX": has_index,
        "HAS_WEIGHT": weight is not None,
        "SMOOTHS": label_smoothing > 0,
        "BLOCK": block,
        "num_warps": warps,
    }


def _divisor(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, out: Tensor
) -> None:
    """Write what the mean divides by into out (1)."""
    classes = x.shape[-1]
    rows = x.numel() // classes
    if target.is_floating_point():
        out.fill_(rows)
        return
    programs = triton.cdiv(rows, INDICES)
    partials = out.new_empty((1, programs))
    divisor_kernel[(programs,)](
        target,
        out if weight is None else weight,
        partials,
        rows,
        classes,
        ignore_index,
        HAS_WEIGHT=weight is not None,
        BLOCK=INDICES,
    )
    sum_rows(partials, out)


def _run_forward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    is_training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, stats and the gradient by x (classes last) of arguments that are laid out."""
    problem = _problem(x, target, weight, label_smoothing)
    rows = problem["rows"]
    is_scalar = reduction != NONE
    loss = x.new_empty(() if is_scalar else x.shape[:-1])
    terms = x.new_empty((1, rows), dtype=torch.float32) if is_scalar else loss
    stats = x.new_empty(2 * rows + 1, dtype=torch.float32)
    grad_x = torch.empty_like(x) if is_training else x.new_empty(0)
    with on_device(x):
        if reduction == MEAN or not is_training:
            _divisor(x, target, weight, ignore_index, stats[2 * rows :])
        forward_kernel[(rows,)](
            divisor=stats[2 * rows :],
            loss=terms,
            stats=stats,
            grad_x=grad_x,
            ignore_index=ignore_index,
            DIVIDES=reduction == MEAN,
            KEEPS_STATS=not is_training,
            WANTS_X=is_training,
            **problem,
        )
    if is_scalar:
        sum_rows(terms, loss)
    return loss, stats, grad_x


def forward(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.forward, but for class indices out of range."""
    options = (ignore_index, reduction, label_smoothing)
    if x.numel() == 0:
        return reference.forward(x, target, weight, *options)
    x, target, weight = laid_out(x, target, weight)
    loss, stats, _ = _run_forward(x, target, weight, *options, is_training=False)
    return loss, stats


def training(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """As reference.training, but for class indices out of range."""
    options = (ignore_index, reduction, label_smoothing)
    if x.numel() == 0:
        return reference.training(x, target, weight, *options)
    x, target, weight = laid_out(x, target, weight)
    loss, _, grad_x = _run_forward(x, target, weight, *options, is_training=True)
    return loss, classes_back(grad_x)


def backward(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    ignore_index: int,
    reduction: int,
    label_smoothing: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward, but for class indices out of range."""
    if x.numel() == 0:
        options = (ignore_index, reduction, label_smoothing, wanted)
        return reference.backward(grad, x, target, weight, stats, *options)
    x, target, weight = laid_out(x, target, weight)
    grad_x = torch.empty_like(x) if wanted[0] else x.new_empty(0)
    grad_target = torch.empty_like(x) if wanted[1] else x.new_empty(0)
    problem = _problem(x, target, weight, label_smoothing)
    with on_device(x):
        backward_kernel[(problem["rows"],)](
            grad=grad.contiguous(),
            stats=stats.contiguous(),
            grad_x=grad_x,
            grad_target=grad_target,
            ignore_index=ignore_index,
            DIVIDES=reduction == MEAN,
            HAS_ROWS=reduction == NONE,
            WANTS_X=wanted[0],
            WANTS_TARGET=wanted[1],
            **problem,
        )
    return (
        classes_back(grad_x) if wanted[0] else grad_x,
        classes_back(grad_target) if wanted[1] else grad_target,
        x.new_empty(0),
    )
