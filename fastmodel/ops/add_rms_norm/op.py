"""add_rms_norm as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmodel.ops import norm, norm_op
from fastmodel.ops.add_rms_norm import reference

_call_forward = norm_op.define("add_rms_norm", ("weight",), reference.backward, has_residual=True)


def add_rms_norm(
    input: Tensor,
    residual: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Residual addition followed by root mean square normalization, both results in one pass.

    sum = input + residual, out = sum / sqrt(mean of sum^2 + eps) * weight, the mean over the last
    dimensions, those of normalized_shape.

    Args:
        input: (..., *normalized_shape), any strides, any floating dtype.
        residual: of input's shape, any strides, any floating dtype.
        normalized_shape: the sizes of input's last dimensions, at least one.
        weight: of normalized_shape, any floating dtype, or None for ones.
        eps: added to the mean; None for float32's epsilon, float64's for a sum in float64.

    Returns:
        (out, sum), of input's shape, contiguous, in the dtype to which PyTorch promotes input and residual;
        float32 under autocast on CUDA. Inputs are left as they are; the result is deterministic for a fixed
        thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    dims = norm.checked_dims("add_rms_norm", input, normalized_shape, weight)
    norm.check_residual("add_rms_norm", input, residual)
    eps = norm.rms_eps(eps, torch.promote_types(input.dtype, residual.dtype))
    out, total, _ = _call_forward(input, residual, weight, dims, eps)
    return out, total
