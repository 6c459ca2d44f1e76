"""linear_silu as a PyTorch op, and its functional face."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer, linear_op
from fastmodel.ops.linear_silu import reference

_call_forward = linear_op.from_pre("linear_silu", F.silu, reference.backward)


def linear_silu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer followed by SiLU: out = silu(x @ weight.T + bias).

    silu(z) = z * sigmoid(z).

    Args:
        x: (..., in_features), any strides, any floating dtype.
        weight: (out_features, in_features), dtype of x.
        bias: (out_features,), dtype of x, or None.

    Returns:
        (..., out_features), contiguous, dtype of x; under autocast the dtype of the region. Inputs are
        left as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    linear_layer.check("linear_silu", x, weight, bias)
    return _call_forward(x, weight, bias)
