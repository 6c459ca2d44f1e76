"""linear_relu_dropout in Triton; the kernels stand in ops/triton_linear.py.

The mask is drawn in the epilogue of the product, by each element's place in out: 60 integer operations an
element, against 2 in_features FLOPs. Backward reads it off the output, as reference.py says.
"""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops.linear_relu_dropout.reference import scale_of, threshold_of
from fastmodel.ops.triton_linear import Dropout, TritonActivation
from fastmodel.ops.triton_math import relu, relu_chain

__all__ = ["backward", "forward"]

_PASSES = TritonActivation(relu, relu_chain)


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor, p: float) -> Tensor:
    """As reference.forward."""
    dropout = Dropout(int(seed), threshold_of(p), scale_of(p)) if p > 0.0 else None
    return _PASSES.forward(x, weight, bias, dropout=dropout)[0]


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, out: Tensor, p: float, wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.backward."""
    return _PASSES.backward(grad, x, weight, out, wanted, scale_of(p))
