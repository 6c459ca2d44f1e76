"""swiglu as a PyTorch op, and its functional face."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import gated, gated_op
from fastmodel.ops.swiglu import reference

_call_forward = gated_op.define("swiglu", reference.backward)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Gated linear unit with SiLU: out = silu(gate) * up, silu(z) = z * sigmoid(z).

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
    return _call_forward(*gated.united("swiglu", gate, up))
