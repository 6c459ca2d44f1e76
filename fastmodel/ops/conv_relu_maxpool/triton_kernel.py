"""conv_relu_maxpool in Triton; patch_sums of ops/triton_conv.py, and the pool over them in registers.

forward   one program makes the sums of one position of its windows after the other, and keeps each window's
          largest and where it was: out and argmax (3 bytes a pooled pixel in bfloat16) are all that is
          written, where a convolution by itself would write and read 4 times as many pixels. Windows that
          overlap compute their shared pixels anew for each.
backward  dense = grad where argmax says, with grad_bias on its way: each pixel of the convolution asks the
          windows that cover it, reading 3 bytes a pooled pixel and writing 2 a pixel: memory-bound, and in a
          fixed order. Then PyTorch's own gradients of a convolution.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import conv, triton_conv
from fastmodel.ops.triton_chain import BLOCK_CHANNELS, BLOCK_ROWS, programs_along
from fastmodel.ops.triton_conv import backward_condition, forward_condition
from fastmodel.ops.triton_host import on_device, sum_rows
from fastmodel.ops.triton_math import relu

__all__ = ["backward", "backward_condition", "forward", "forward_condition"]

BLOCKS = {
    "BLOCK_PIXELS": 64,
    "BLOCK_FILTERS": 64,
    "BLOCK_DEPTH": 32,
    "num_warps": 8,
    "num_stages": 3,
}
"""Eight warps: each thread keeps three values an output, its sum, the largest and where that was."""
FLAT_BLOCKS = {**triton_conv.FLAT_BLOCKS, "num_warps": 8}


@triton.jit
def forward_kernel(
    x, weight, bias, out, argmax, pixels, groups,
    h, w, channels, filters, depth, taps, taps_across, p, q,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    pooled_p, pooled_q, pool_stride_h, pool_stride_w, pool_padding_h, pool_padding_w,
    POOL_H: tl.constexpr, POOL_W: tl.constexpr,
    HAS_BIAS: tl.constexpr, IS_FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """out and argmax, in (N, PP, PQ, K); `pixels` are the pooled ones."""
    of_group = filters // groups
    pixel, filter, group = triton_conv.block_of_program(
        pixels, of_group, groups, BLOCK_PIXELS, BLOCK_FILTERS
    )
    is_pixel, is_filter = pixel < pixels, filter < of_group
    filter += group * of_group
    image = pixel // pooled_q // pooled_p
    first_p = pixel // pooled_q % pooled_p * pool_stride_h - pool_padding_h
    first_q = pixel % pooled_q * pool_stride_w - pool_padding_w
    offset = tl.zeros([BLOCK_FILTERS], tl.float32)
    if HAS_BIAS:
        offset = tl.load(bias + filter, mask=is_filter, other=0.0).to(tl.float32)

    largest = tl.full([BLOCK_PIXELS, BLOCK_FILTERS], -float("inf"), tl.float32)
    where = tl.full([BLOCK_PIXELS, BLOCK_FILTERS], POOL_H * POOL_W, tl.int32)
    for position in range(POOL_H * POOL_W):
        at_p, at_q = first_p + position // POOL_W, first_q + position % POOL_W
        is_inside = is_pixel & (at_p >= 0) & (at_p < p) & (at_q >= 0) & (at_q < q)
        sums = triton_conv.patch_sums(
            x + group * depth, weight, image,
            at_p * stride_h - padding_h, at_q * stride_w - padding_w,
            is_inside, filter, is_filter,
            h, w, channels, depth, taps, taps_across, dilation_h, dilation_w,
            IS_FLAT, PRECISION, BLOCK_PIXELS, BLOCK_FILTERS, BLOCK_DEPTH,
        )  # fmt: skip
        sums += offset[None, :]
        # The first of equal ones, the last NaN.
        is_better = is_inside[:, None] & ((sums > largest) | (sums != sums))
        largest = tl.where(is_better, sums, largest)
        where = tl.where(is_better, position, where)
    where = tl.where(largest <= 0, POOL_H * POOL_W, where)
    place = pixel.to(tl.int64)[:, None] * filters + filter[None, :]
    mask = is_pixel[:, None] & is_filter[None, :]
    tl.store(out + place, relu(largest).to(out.dtype.element_ty), mask=mask)
    tl.store(argmax + place, where.to(tl.uint8), mask=mask)


@triton.jit
def scatter_kernel(
    grad, argmax, dense, partials, pixels, filters, p, q,
    pooled_p, pooled_q, pool_stride_h, pool_stride_w, pool_padding_h, pool_padding_w,
    POOL_H: tl.constexpr, POOL_W: tl.constexpr, WANTS_BIAS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """dense (N, P, Q, K); partials[filter, program] = its sum over the program's pixels."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    filter = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    total = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
    for start in range(program * BLOCK_ROWS, pixels, programs * BLOCK_ROWS):
        pixel = start + tl.arange(0, BLOCK_ROWS)
        is_pixel = pixel < pixels
        image = pixel // q // p
        from_top = pixel // q % p + pool_padding_h
        from_left = pixel % q + pool_padding_w
        found = tl.zeros([BLOCK_ROWS, BLOCK_CHANNELS], tl.float32)
        for position in range(POOL_H * POOL_W):
            # The window of which this pixel is at `position`, where there is one.
            down, right = from_top - position // POOL_W, from_left - position % POOL_W
            window_p, window_q = down // pool_stride_h, right // pool_stride_w
            is_window = (
                is_pixel
                & (down >= 0)
                & (right >= 0)
                & (down % pool_stride_h == 0)
                & (right % pool_stride_w == 0)
                & (window_p < pooled_p)
                & (window_q < pooled_q)
            )
            window = (image.to(tl.int64) * pooled_p + window_p) * pooled_q + window_q
            place = window[:, None] * filters + filter[None, :]
            mask = is_window[:, None] & (filter < filters)[None, :]
            is_largest = tl.load(argmax + place, mask=mask, other=255) == position
            # All of them are read, 16 bytes at a time; picking single ones would take longer.
            pooled = tl.load(grad + place, mask=mask, other=0.0).to(tl.float32)
            found += tl.where(is_largest, pooled, 0.0)
        place = pixel.to(tl.int64)[:, None] * filters + filter[None, :]
        mask = is_pixel[:, None] & (filter < filters)[None, :]
        tl.store(dense + place, found.to(dense.dtype.element_ty), mask=mask)
        total += found
    if WANTS_BIAS:
        tl.store(partials + filter * programs + program, tl.sum(total, 0), mask=filter < filters)


def forward(
    x, weight, bias, stride, padding, dilation, groups, pool_kernel, pool_stride, pool_padding
):
    """As reference.forward."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    sizes = triton_conv.geometry(x, weight, stride, padding, dilation)
    pooled = conv.pooled_size((sizes.p, sizes.q), pool_kernel, pool_stride, pool_padding)
    shape = (x.shape[0], sizes.filters, *pooled)
    out, argmax = (
        torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
        for dtype in (x.dtype, torch.uint8)
    )
    pixels = x.shape[0] * pooled[0] * pooled[1]
    if out.numel():
        constants = triton_conv.constants(x.dtype, sizes.depth)
        blocks = FLAT_BLOCKS if constants["IS_FLAT"] else BLOCKS
        with on_device(x):
            forward_kernel[triton_conv.programs(pixels, sizes.filters, groups, blocks)](
                x,
                weight,
                x if bias is None else bias.contiguous(),
                out,
                argmax,
                pixels,
                groups,
                *sizes,
                *pooled,
                *pool_stride,
                *pool_padding,
                POOL_H=pool_kernel[0],
                POOL_W=pool_kernel[1],
                HAS_BIAS=bias is not None,
                **constants,
                **blocks,
            )
    return out, argmax


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    argmax: Tensor,
    stride,
    padding,
    dilation,
    groups: int,
    pool_kernel,
    pool_stride,
    pool_padding,
    wanted,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    argmax = argmax.contiguous(memory_format=torch.channels_last)
    n, k, pooled_p, pooled_q = grad.shape
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    dense = torch.empty(
        (n, k, p, q), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    pixels = n * p * q
    programs = programs_along(pixels)
    partials = x.new_empty((k if wanted[2] else 0, programs), dtype=torch.float32)
    grad_bias = x.new_empty(k if wanted[2] else 0)
    with on_device(x):
        scatter_kernel[(programs, triton.cdiv(k, BLOCK_CHANNELS))](
            grad,
            argmax,
            dense,
            partials,
            pixels,
            k,
            p,
            q,
            pooled_p,
            pooled_q,
            *pool_stride,
            *pool_padding,
            POOL_H=pool_kernel[0],
            POOL_W=pool_kernel[1],
            WANTS_BIAS=wanted[2],
            BLOCK_ROWS=BLOCK_ROWS,
            BLOCK_CHANNELS=BLOCK_CHANNELS,
        )
    if wanted[2]:
        sum_rows(partials, grad_bias)
    products = [wanted[0], wanted[1], False]
    grad_x, grad_weight, _ = conv.dense_backward(
        dense, x, weight, stride, padding, dilation, groups, products
    )
    return grad_x, grad_weight, grad_bias
