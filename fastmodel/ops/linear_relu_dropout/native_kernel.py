"""Host wrappers of csrc/linear_relu_dropout: the dropout goes over what linear_relu's kernels leave."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastmodel.env import native
from fastmodel.ops import linear_layer
from fastmodel.ops.linear_relu_dropout.reference import scale_of, threshold_of
from fastmodel.ops.native import DTYPE_CODES, address, threads


def forward_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor, p: float) -> Tensor:
    """As reference.forward."""
    return _dropped(linear_layer.relu_forward_cpu(x, weight, bias), seed, p)


def forward_library(
    x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor, p: float
) -> Tensor:
    """As reference.forward."""
    return _dropped(F.linear(x, weight, bias).relu_(), seed, p)


def _dropped(out: Tensor, seed: Tensor, p: float) -> Tensor:
    if p > 0.0:
        native().linear_relu_dropout_cpu(
            address(out),
            out.numel(),
            int(seed) & 0xFFFFFFFFFFFFFFFF,
            threshold_of(p),
            scale_of(p),
            DTYPE_CODES[out.dtype],
            threads(),
        )
    return out


def backward_cpu(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    return linear_layer.relu_backward_cpu(grad, x, weight, out, scale_of(p), wanted)


def backward_library(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    return linear_layer.relu_backward_library(grad, x, weight, out, scale_of(p), wanted)
