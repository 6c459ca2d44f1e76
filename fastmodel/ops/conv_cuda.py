"""What the host wrappers of the convolutions' CUDA kernels share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.ops import conv
from fastmodel.ops.native import GPU_DTYPE_CODES, address, stream

_MOST_BLOCKS = 1024
"""Of a kernel whose blocks share sums: several for each multiprocessor of a large GPU."""

LEAST_ITEMS = 256
"""Items of a sum that are worth a block of their own, and a row of scratch."""


def splits(items: int, groups: int) -> int:
    """Among how many blocks a sum over `items` is shared, where `groups` such sums run side by side."""
    return max(1, min(-(-items // LEAST_ITEMS), _MOST_BLOCKS // max(groups, 1)))


def scratch(like: Tensor, shares: int, sums: int) -> Tensor:
    """float32 room for every block's share of the sums."""
    return torch.empty(shares, sums, dtype=torch.float32, device=like.device)


def filter_splits(items: int, weight: Tensor) -> int:
    """`splits` of the kernel that sums filters' gradients: csrc/common/conv_filter_gradient.cuh."""
    k, c, r, s = weight.shape
    return splits(items, -(-k // 32) * -(-c // 32) * -(-r * s // 9))


def gradients(
    kernel: Callable, sizes: tuple[int, ...], shares: int, grad, x, weight, saved, wanted
) -> tuple[Tensor, Tensor, Tensor]:
    """Of x, weight and bias, by a kernel whose blocks share the sums over pixels among `shares`.

    `saved` is what forward kept of its output. grad and saved come in with channels innermost.
    """
    partial = scratch(grad, shares, weight.numel() + weight.shape[0])
    rest = address(partial), shares, GPU_DTYPE_CODES[x.dtype], stream(x)
    found, _ = conv.gradients(kernel, sizes, grad, x, weight, saved, wanted, *rest)
    return found


DOES_NOT_FIT = "its tiles do not fit into shared memory"


def is_first_layer(weight: Tensor) -> bool:
    """Are its input channels and taps so few that its bytes outweigh its products?"""
    _, c, r, s = weight.shape
    return c <= 4 and r * s <= 9


def rows(tensor: Tensor) -> Tensor:
    """The tensor with channels innermost, at an address for 16-byte accesses."""
    found = tensor.contiguous(memory_format=torch.channels_last)
    return found if found.data_ptr() % 16 == 0 else found.clone()
