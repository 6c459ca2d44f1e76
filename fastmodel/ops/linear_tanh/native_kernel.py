"""Host wrappers of csrc/linear_tanh."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import linear_layer

_KERNELS = linear_layer.NativeActivation("linear_tanh")

backward_cpu = _KERNELS.backward_cpu
backward_library = _KERNELS.backward_library


def forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    return _KERNELS.forward_cpu(x, weight, bias)[0]


def forward_library(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.forward."""
    return _KERNELS.forward_library(x, weight, bias)[0]
