"""geglu_tanh as a PyTorch op, and its functional face."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import gated, gated_op
from fastmodel.ops.geglu_tanh import reference

_call_forward = gated_op.define("geglu_tanh", reference.backward)


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """Gated linear unit with the tanh approximation of GELU: out = gelu(gate) * up.

    gelu(z) = z * (1 + tanh(u)) / 2, u = sqrt(2 / pi) (z + 0.044715 z^3): PyTorch's `approximate="tanh"`.

    Args:
        gate: any shape, any floating dtype; fastest with the last dimension contiguous, as halves of a
            packed projection are.
        up: of gate's shape; of another dtype, both are promoted.

    Returns:
        Of gate's shape, contiguous. bfloat16 and float16 are worked out in float32 and rounded once. Inputs
        are left as they are; the result is deterministic.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.

    Source: Shazeer, GLU Variants Improve Transformer (2020).
    """
    return _call_forward(*gated.united("geglu_tanh", gate, up))
