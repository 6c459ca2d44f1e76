"""layer_norm as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.ops import norm, norm_op
from fastmodel.ops.layer_norm import reference

_call_forward = norm_op.define(
    "layer_norm", ("weight", "bias"), reference.backward, has_residual=False
)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalization, as `torch.nn.functional.layer_norm`.

    out = (input - mean) / sqrt(variance + eps) * weight + bias, mean and (biased) variance over the last
    dimensions, those of normalized_shape.

    Args:
        input: (..., *normalized_shape), any strides, any floating dtype.
        normalized_shape: the sizes of input's last dimensions, at least one.
        weight: of normalized_shape, any floating dtype, or None for ones.
        bias: as weight, or None for zeros.
        eps: added to the variance.

    Returns:
        Of input's shape and dtype, contiguous; float32 under autocast on CUDA, as in PyTorch. Inputs are left
        as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    dims = norm.checked_dims("layer_norm", input, normalized_shape, weight, bias)
    if norm_op.pytorch_is_faster(input, weight, bias):
        return norm_op.pytorchs(input, normalized_shape, weight, bias, eps)
    return _call_forward(input, weight, bias, dims, eps)[0]
