"""conv_relu in Triton; patch_sums of ops/triton_conv.py with bias and ReLU on the sums in registers.

    forward   out = relu(conv2d(x, weight, bias)), 2 N P Q K C R S FLOPs on tensor cores; x, weight and out
              move once: 64 channels and filters of 3 x 3 make 288 FLOPs a byte in bfloat16, about what an
              H100 computes while it moves one, and more channels are bound by arithmetic
    backward  masked = out <= 0 ? 0 : grad, with grad_bias on its way (ops/triton_chain.py: memory-bound),
              then PyTorch's own gradients of a convolution

Blocks are tuned on the first call of a shape, over the few of CONFIGS that suit it.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastmodel.ops import conv, triton_conv
from fastmodel.ops.triton_chain import chain
from fastmodel.ops.triton_conv import backward_condition, forward_condition
from fastmodel.ops.triton_host import is_interpreted, on_device
from fastmodel.ops.triton_math import relu, relu_chain

__all__ = ["backward", "backward_condition", "forward", "forward_condition"]


def _config(pixels: int, filters: int, depth: int, warps: int, stages: int) -> triton.Config:
    blocks = {"BLOCK_PIXELS": pixels, "BLOCK_FILTERS": filters, "BLOCK_DEPTH": depth}
    return triton.Config(blocks, num_warps=warps, num_stages=stages)


CONFIGS = (
    _config(64, 64, 32, 4, 3),
    _config(64, 32, 32, 4, 4),
    _config(128, 64, 32, 4, 3),
    _config(128, 64, 64, 4, 3),
    _config(128, 128, 32, 8, 3),
    _config(128, 128, 64, 8, 3),
    _config(256, 64, 32, 8, 3),
    _config(128, 32, 32, 4, 4),
)
"""The first is taken where nothing is tuned."""


def suitable(
    configs: list[triton.Config], pixels: int, filters: int, depth: int, element_bytes: int
) -> list[triton.Config]:
    """Those of the configs that waste no more than half a block, and fit an A100's shared memory."""

    def fits(config: triton.Config) -> bool:
        blocks = config.kwargs
        tile = (blocks["BLOCK_PIXELS"] + blocks["BLOCK_FILTERS"]) * blocks["BLOCK_DEPTH"]
        return (
            tile * element_bytes * config.num_stages <= 160 * 1024
            and blocks["BLOCK_FILTERS"] <= max(32, triton.next_power_of_2(filters))
            and blocks["BLOCK_PIXELS"] <= max(64, triton.next_power_of_2(pixels))
            and blocks["BLOCK_DEPTH"] <= max(32, triton.next_power_of_2(depth))
        )

    return [config for config in configs if fits(config)] or configs[:1]


@triton.jit
def forward_kernel(
    x, weight, bias, out, pixels, groups,
    h, w, channels, filters, depth, taps, taps_across, p, q,
    stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w,
    HAS_BIAS: tl.constexpr, IS_FLAT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_FILTERS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """out = relu(sums + bias), in (N, P, Q, K)."""
    of_group = filters // groups
    pixel, filter, group = triton_conv.block_of_program(
        pixels, of_group, groups, BLOCK_PIXELS, BLOCK_FILTERS
    )
    is_pixel, is_filter = pixel < pixels, filter < of_group
    filter += group * of_group
    top = pixel // q % p * stride_h - padding_h
    left = pixel % q * stride_w - padding_w
    sums = triton_conv.patch_sums(
        x + group * depth, weight, pixel // q // p, top, left, is_pixel, filter, is_filter,
        h, w, channels, depth, taps, taps_across, dilation_h, dilation_w,
        IS_FLAT, PRECISION, BLOCK_PIXELS, BLOCK_FILTERS, BLOCK_DEPTH,
    )  # fmt: skip
    if HAS_BIAS:
        sums += tl.load(bias + filter, mask=is_filter, other=0.0).to(tl.float32)[None, :]
    place = pixel.to(tl.int64)[:, None] * filters + filter[None, :]
    mask = is_pixel[:, None] & is_filter[None, :]
    tl.store(out + place, relu(sums).to(out.dtype.element_ty), mask=mask)


@functools.cache
def _tuned() -> Any:
    def prune(configs, arguments, **_):
        of_group = arguments["filters"] // arguments["groups"]
        element_bytes = arguments["x"].element_size()
        return suitable(configs, arguments["pixels"], of_group, arguments["depth"], element_bytes)

    return triton.autotune(
        list(CONFIGS),
        key=["pixels", "groups", "filters", "depth", "taps", "stride_h", "dilation_h"],
        prune_configs_by={"early_config_prune": prune},
    )(forward_kernel)


def _kernel(is_flat: bool) -> tuple[Any, dict[str, Any]]:
    """The kernel to launch, and its blocks where they are not tuned."""
    if is_flat:
        return forward_kernel, triton_conv.FLAT_BLOCKS
    if is_interpreted(forward_kernel):
        return forward_kernel, CONFIGS[0].kwargs
    return _tuned(), {}


def forward(x, weight, bias, stride, padding, dilation, groups):
    """As reference.forward."""
    memory_format = conv.memory_format(x, weight)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    sizes = triton_conv.geometry(x, weight, stride, padding, dilation)
    shape = (x.shape[0], sizes.filters, sizes.p, sizes.q)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = x.shape[0] * sizes.p * sizes.q
    if out.numel():
        constants = triton_conv.constants(x.dtype, sizes.depth)
        kernel, blocks = _kernel(constants["IS_FLAT"])
        with on_device(x):
            kernel[functools.partial(triton_conv.programs, pixels, sizes.filters, groups)](
                x,
                weight,
                x if bias is None else bias.contiguous(),
                out,
                pixels,
                groups,
                *sizes,
                HAS_BIAS=bias is not None,
                **constants,
                **blocks,
            )
    return out.contiguous(memory_format=memory_format)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    stride,
    padding,
    dilation,
    groups: int,
    wanted,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    grad = grad.contiguous(memory_format=torch.channels_last)
    out = out.contiguous(memory_format=torch.channels_last)
    rows = grad.permute(0, 2, 3, 1).reshape(-1, grad.shape[1])
    masked, grad_bias = chain(relu_chain, rows, out, wanted[2])
    n, k, p, q = grad.shape
    dense = masked.view(n, p, q, k).permute(0, 3, 1, 2)
    products = [wanted[0], wanted[1], False]
    grad_x, grad_weight, _ = conv.dense_backward(
        dense, x, weight, stride, padding, dilation, groups, products
    )
    return grad_x, grad_weight, grad_bias
