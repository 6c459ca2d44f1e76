"""What the Triton convolutions share: sums over patches as a product of matrices that are never made.

    sums[pixel, filter] = sum over r, s, c of x[n, h + r dh, w + s dw, c] * weight[filter, r, s, c]

x is (N, H, W, C) and weight (K, R, S, C / groups) in memory: channels_last both. A step of the sum is one tap
and a block of channels, which lie side by side, so that loads are wide; of few channels, as in a first layer,
it is a block of all taps and channels in a row instead, with an address of its own for each element.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import conv
from fastmodel.ops.triton_host import precision
from fastmodel.ops.triton_math import dot

FEWEST_CHANNELS = 16
"""Of a step by taps: fewer would leave a part of the tensor cores' smallest depth empty."""
FLAT_BLOCKS = {
    "BLOCK_PIXELS": 64,
    "BLOCK_FILTERS": 32,
    "BLOCK_DEPTH": 16,
    "num_warps": 4,
    "num_stages": 3,
}
"""Of steps over all taps and channels: as large as an address an element leaves registers for."""


class Geometry(NamedTuple):
    """Sizes of a convolution as the kernels take them."""

    h: int
    w: int
    channels: int
    """Of x, all groups."""
    filters: int
    """Of weight, all groups."""
    depth: int
    """Channels of a group."""
    taps: int
    taps_across: int
    p: int
    q: int
    stride_h: int
    stride_w: int
    padding_h: int
    padding_w: int
    dilation_h: int
    dilation_w: int


def geometry(x: Tensor, weight: Tensor, stride, padding, dilation) -> Geometry:
    """The sizes of this convolution."""
    k, depth, r, s = weight.shape
    p, q = conv.conv_output_size(x, weight, stride, padding, dilation)
    _, c, h, w = x.shape
    return Geometry(h, w, c, k, depth, r * s, s, p, q, *stride, *padding, *dilation)


def constants(dtype: torch.dtype, depth: int) -> dict[str, Any]:
    """What does not hang on the blocks."""
    return {"IS_FLAT": depth < FEWEST_CHANNELS, "PRECISION": precision(dtype)}


def forward_condition(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, *_):
    """Why the kernels do not take this call, or None."""
    return _too_large(x, padding)


def backward_condition(grad: Tensor, x: Tensor, weight: Tensor, saved: Tensor, stride, padding, *_):
    """Why the kernels do not take this call, or None."""
    return _too_large(x, padding)


def _too_large(x: Tensor, padding) -> str | None:
    """Pixels are counted, and addressed within an image, in 32 bits; blocks end beyond the last."""
    n, c, h, w = x.shape
    most = 2**31 - 2**16
    if c * h * w >= most or n * (h + 2 * padding[0]) * (w + 2 * padding[1]) >= most:
        return "an image has 2^31 elements, or all of them 2^31 pixels"
    return None


def programs(pixels: int, filters: int, groups: int, blocks: dict[str, Any]) -> tuple[int]:
    """The grid of a launch."""
    filter_blocks = triton.cdiv(filters // groups, blocks["BLOCK_FILTERS"])
    return (triton.cdiv(pixels, blocks["BLOCK_PIXELS"]) * filter_blocks * groups,)


@triton.jit
def block_of_program(
    pixels, filters, groups, BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr
):
    """Pixels and filters of this program, within `filters` of a group, and the group.

    Programs side by side take the filters of one block of pixels, which then comes from L2.
    """
    program = tl.program_id(0)
    filter_blocks = tl.cdiv(filters, BLOCK_FILTERS)
    pixel = program // (filter_blocks * groups) * BLOCK_PIXELS
    inside = program % (filter_blocks * groups)
    filter = inside % filter_blocks * BLOCK_FILTERS + tl.arange(0, BLOCK_FILTERS)
    return pixel + tl.arange(0, BLOCK_PIXELS), filter, inside // filter_blocks


@triton.jit
def patch_sums(
    x, weight, image, top, left, is_pixel, filter, is_filter,
    h, w, channels, depth, taps, taps_across, dilation_h, dilation_w,
    IS_FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """sums of a block: patches that begin at (top, left) of their image, x and weight being the group's."""
    origin = ((image.to(tl.int64) * h + top) * w + left) * channels
    row_of_weight = filter.to(tl.int64) * (taps * depth)
    blocks = tl.cdiv(depth, BLOCK_DEPTH)
    steps = tl.cdiv(taps * depth, BLOCK_DEPTH) if IS_FLAT else taps * blocks
    acc = tl.zeros([BLOCK_PIXELS, BLOCK_FILTERS], tl.float32)
    for step in range(steps):
        if IS_FLAT:
            at = step * BLOCK_DEPTH + tl.arange(0, BLOCK_DEPTH)
            has_depth = at < taps * depth
            down = at // depth // taps_across * dilation_h
            right = at // depth % taps_across * dilation_w
            offset = (down * w + right) * channels + at % depth
            y_at, x_at = top[:, None] + down[None, :], left[:, None] + right[None, :]
            mask = is_pixel[:, None] & has_depth[None, :]
            mask = mask & (y_at >= 0) & (y_at < h) & (x_at >= 0) & (x_at < w)
        else:
            tap = step // blocks
            channel = step % blocks * BLOCK_DEPTH + tl.arange(0, BLOCK_DEPTH)
            at = tap * depth + channel
            has_depth = channel < depth
            down, right = tap // taps_across * dilation_h, tap % taps_across * dilation_w
            offset = (down * w + right) * channels + channel
            y, x_ = top + down, left + right
            inside = is_pixel & (y >= 0) & (y < h) & (x_ >= 0) & (x_ < w)
            mask = inside[:, None] & has_depth[None, :]
        patches = tl.load(x + origin[:, None] + offset[None, :], mask=mask, other=0.0)
        filters = tl.load(
            weight + row_of_weight[None, :] + at[:, None],
            mask=has_depth[:, None] & is_filter[None, :],
            other=0.0,
        )
        acc = dot(patches, filters, acc, PRECISION)
    return acc
