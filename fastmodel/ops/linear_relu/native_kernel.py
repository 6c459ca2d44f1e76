"""Host wrappers of csrc/linear_relu.

`cpu` rows are the fused kernels. `library` rows leave the products to PyTorch; backward masks the gradient
and sums the bias gradient in one pass of its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer


def forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    return linear_layer.relu_forward_cpu(x, weight, bias)


def backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    return linear_layer.relu_backward_cpu(grad, x, weight, out, 1.0, wanted)


def forward_library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    return F.linear(x, weight, bias).relu_()


def backward_library(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    return linear_layer.relu_backward_library(grad, x, weight, out, 1.0, wanted)
