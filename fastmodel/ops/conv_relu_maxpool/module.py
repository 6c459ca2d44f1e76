"""The drop-in for nn.Conv2d followed by nn.ReLU and nn.MaxPool2d."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from fastmodel.errors import InputError
from fastmodel.ops import conv
from fastmodel.ops.conv_relu_maxpool.op import conv_relu_maxpool
from fastmodel.ops.modules import adopt, conv2d_arguments


class ConvReLUMaxPool2d(nn.Conv2d):
    """`nn.Conv2d`, `nn.ReLU` and `nn.MaxPool2d` in one.

    out = max_pool2d(relu(conv2d(x, weight, bias)), pool_kernel_size, pool_stride, pool_padding)

    Parameters, initialisation and state_dict are those of `nn.Conv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
            device, dtype: as `nn.Conv2d` takes them.
        pool_kernel_size: of the max-pool, one or two integers.
        pool_stride: of the max-pool; None for pool_kernel_size.
        pool_padding: of the max-pool, at most half of pool_kernel_size.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        device=None,
        dtype=None,
        pool_kernel_size: int | Sequence[int] = 2,
        pool_stride: int | Sequence[int] | None = None,
        pool_padding: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        name = type(self).__name__
        self.pool_kernel_size = conv.pair(name, "pool_kernel_size", pool_kernel_size, 1)
        self.pool_stride = (
            self.pool_kernel_size
            if pool_stride is None
            else conv.pair(name, "pool_stride", pool_stride, 1)
        )
        self.pool_padding = conv.pair(name, "pool_padding", pool_padding, 0)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, K, PP, PQ) or (K, PP, PQ)."""
        x, padding = conv.module_padding(self, x)
        return conv_relu_maxpool(
            x,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self.pool_kernel_size,
            self.pool_stride,
            self.pool_padding,
        )

    def extra_repr(self) -> str:
        """As nn.Conv2d's, with the pool's sizes."""
        return (
            f"{super().extra_repr()}, pool_kernel_size={self.pool_kernel_size}, "
            f"pool_stride={self.pool_stride}, pool_padding={self.pool_padding}"
        )

    @classmethod
    def from_torch(cls, source: nn.Conv2d, pool: nn.MaxPool2d) -> ConvReLUMaxPool2d:
        """The fused module over the very Parameters of `source`, which is left as it is.

        Raises:
            InputError: the pool has dilation, ceil_mode or return_indices.
        """
        is_plain = (
            conv.pair("MaxPool2d", "dilation", pool.dilation, 1) == (1, 1)
            and not pool.ceil_mode
            and not pool.return_indices
        )
        if not is_plain:
            raise InputError(
                f"{cls.__name__}: the pool must have no dilation, ceil_mode or return_indices, "
                f"it is {pool}"
            )
        fused = cls(
            **conv2d_arguments(source),
            pool_kernel_size=pool.kernel_size,
            pool_stride=pool.stride,
            pool_padding=pool.padding,
        )
        return adopt(fused, source)
