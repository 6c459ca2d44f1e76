"""add_layer_norm as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.ops import norm, norm_op
from fastmodel.ops.add_layer_norm import reference

_call_forward = norm_op.define(
    "add_layer_norm", ("weight", "bias"), reference.backward, has_residual=True
)


def add_layer_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Residual addition followed by layer normalization, both results in one pass.

    sum = input + residual, out = (sum - mean) / sqrt(variance + eps) * weight + bias, mean and (biased)
    variance of sum over the last dimensions, those of normalized_shape.

    Args:
        input: (..., *normalized_shape), any strides, any floating dtype.
        residual: of input's shape, any strides, any floating dtype.
        normalized_shape: the sizes of input's last dimensions, at least one.
        weight: of normalized_shape, any floating dtype, or None for ones.
        bias: as weight, or None for zeros.
        eps: added to the variance.

    Returns:
        (out, sum), of input's shape, contiguous, in the dtype to which PyTorch promotes input and residual;
        float32 under autocast on CUDA. Inputs are left as they are; the result is deterministic for a fixed
        thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    dims = norm.checked_dims("add_layer_norm", input, normalized_shape, weight, bias)
    norm.check_residual("add_layer_norm", input, residual)
    if norm_op.pytorch_is_faster(input, residual, weight, bias):
        total = input + residual
        return norm_op.pytorchs(total, normalized_shape, weight, bias, eps), total
    out, total, _ = _call_forward(input, residual, weight, bias, dims, eps)
    return out, total
