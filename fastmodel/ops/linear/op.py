"""linear as a PyTorch op, and its functional face."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import linear_layer, linear_op
from fastmodel.ops.linear import reference

_call_forward = linear_op.from_inputs("linear", reference.backward)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Linear layer, as `torch.nn.functional.linear`: out = input @ weight.T + bias.

    Args:
        input: (..., in_features), any strides, any floating dtype.
        weight: (out_features, in_features), dtype of input.
        bias: (out_features,), dtype of input, or None.

    Returns:
        (..., out_features), contiguous, dtype of input; under autocast the dtype of the region. Inputs are
        left as they are; the result is deterministic for a fixed thread count.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.
    """
    linear_layer.check("linear", input, weight, bias)
    return _call_forward(input, weight, bias)
