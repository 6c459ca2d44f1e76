"""How the convolution ops' cases are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from fastmodel.ops import conv
from fastmodel.ops.case import randn


@dataclass(frozen=True)
class ConvInputs:
    """Sizes of one convolution; letters as everywhere: N, C, H, W, K, R, S."""

    x: tuple[int, int, int, int]
    k: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    has_bias: bool = True
    is_channels_last: bool = True

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """Shape of the weight."""
        return (self.k, self.x[1] // self.groups, *self.kernel)

    @property
    def out(self) -> tuple[int, int]:
        """(P, Q)."""
        sizes = (
            conv.output_size(h, r, s, p, d)
            for h, r, s, p, d in zip(
                self.x[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        p, q = sizes
        return p, q

    @property
    def fan_in(self) -> int:
        """Terms of one output pixel."""
        return math.prod(self.weight[1:])

    @property
    def depth(self) -> int:
        """Terms in the longest sum of forward and backward."""
        n = self.x[0]
        return max(self.fan_in, n * math.prod(self.out), self.k * math.prod(self.kernel))

    @property
    def flops(self) -> int:
        """Forward multiply-adds, counted as two each."""
        return conv.flops(self.x, self.weight, *self.out)

    def input_bytes(self) -> int:
        """float32 bytes of x, weight and bias."""
        return 4 * (math.prod(self.x) + math.prod(self.weight) + self.k * self.has_bias)

    def make(self, dtype: torch.dtype) -> tuple:
        """(x, weight, bias, stride, padding, dilation, groups)."""
        x = randn(0, *self.x, dtype=dtype)
        if self.is_channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        weight = randn(1, *self.weight, dtype=dtype, scale=1 / math.sqrt(self.fan_in))
        bias = randn(2, self.k, dtype=dtype, scale=0.5) if self.has_bias else None
        return (x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
