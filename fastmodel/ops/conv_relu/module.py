"""The drop-in for nn.Conv2d followed by nn.ReLU."""

from __future__ import annotations

from torch import Tensor, nn

from fastmodel.ops import conv
from fastmodel.ops.conv_relu.op import conv_relu
from fastmodel.ops.modules import adopt, conv2d_arguments


class ConvReLU2d(nn.Conv2d):
    """`nn.Conv2d` and `nn.ReLU` in one: out = relu(conv2d(x, weight, bias)).

    Arguments, parameters, initialisation and state_dict are those of `nn.Conv2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to (N, K, P, Q) or (K, P, Q)."""
        x, padding = conv.module_padding(self, x)
        return conv_relu(
            x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups
        )

    @classmethod
    def from_torch(cls, source: nn.Conv2d) -> ConvReLU2d:
        """The fused module over the very Parameters of `source`, which is left as it is."""
        return adopt(cls(**conv2d_arguments(source)), source)
