"""linear_gelu as a PyTorch op, and its functional face."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastmodel.ops import linear_layer, linear_op
from fastmodel.ops.linear_gelu import reference

_call_forward = linear_op.from_pre("linear_gelu", F.gelu, reference.backward)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer followed by GELU: out = gelu(x @ weight.T + bias).

    gelu(z) = z * Phi(z), Phi(z) = (1 + erf(z / sqrt 2)) / 2: the exact GELU, no tanh in it.

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
    linear_layer.check("linear_gelu", x, weight, bias)
    return _call_forward(x, weight, bias)
