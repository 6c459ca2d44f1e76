"""rope as a PyTorch op, and its functional face."""

from __future__ import annotations

from torch import Tensor

from fastmodel.ops import rotary, rotary_op
from fastmodel.ops.rope import reference

_call_forward = rotary_op.define("rope", reference.backward)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotary embedding of q and k, pairs half a head apart, as Hugging Face's `apply_rotary_pos_emb`.

    out[i] = x[i] cos[i] - x[j] sin[i], out[j] = x[j] cos[j] + x[i] sin[j], for i < D / 2 and j = i + D / 2.

    Args:
        q: (B, H, T, D), D even, any strides, any floating dtype; fastest with D contiguous.
        k: (B, G, T, D), dtype of q; G may differ from H.
        cos: (T, D), (1, T, D) or (B, T, D), any floating dtype; usually cos of an angle at i and again at j.
        sin: as cos.

    Returns:
        q and k turned, each in its dtype and, as far as it has no gaps, its strides. bfloat16 and float16 are
        worked out in float32 and rounded once. Inputs are left as they are; the result is deterministic. q
        and k may want gradients, the tables not.

    Raises:
        InputError: shapes, dtypes or devices do not fit together.
        BackendError: `use_backend` asked for a backend that cannot serve the call.

    Source: Su et al., RoFormer (2021).
    """
    rotary.check("rope", q, k, cos, sin)
    return _call_forward(q, k, cos, sin)
