"""rms_norm as a PyTorch op, and its functional face."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastmodel.ops import norm, norm_op
from fastmodel.ops.rms_norm import reference

_call_forward = norm_op.define("rms_norm", ("weight",), reference.backward, has_residual=False)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Root mean square normalization, as `torch.nn.functional.rms_norm`.

    out = input / sqrt(mean of input^2 + eps) * weight, the mean over the last dimensions, those of
    normalized_shape.

    Args:
        input: (..., *normalized_shape), any strides, any floating dtype.
        normalized_shape: the sizes of input's last dimensions, at least one.
        weight: of normalized_shape, any floating dtype, or None for ones.
        eps: added to the mean; None for float32's epsilon, float64's for float64.

    Returns:
        Of input's shape and dtype, contiguous; float32 under autocast on CUDA, as in PyTorch. Inputs are left
        as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    dims = norm.checked_dims("rms_norm", input, normalized_shape, weight)
    return _call_forward(input, weight, dims, norm.rms_eps(eps, input.dtype))[0]
