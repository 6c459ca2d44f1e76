"""The ops where values meet, for all that the lines take in whose place they stand.

The ops themselves want shapes and dtypes that fit together; lines of PyTorch stretch the one and promote the
other. That the example inputs did not does not mean that later calls will not: a batch of one beside a value
without samples, or autocast, which leaves Parameters in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastmodel.functional as fused


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return fused.swiglu(*_stretched(gate, up))


def geglu(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up."""
    return fused.geglu(*_stretched(gate, up))


def geglu_tanh(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate, approximate="tanh") * up."""
    return fused.geglu_tanh(*_stretched(gate, up))


def _stretched(gate: Tensor, up: Tensor) -> Sequence[Tensor]:
    return (gate, up) if gate.shape == up.shape else torch.broadcast_tensors(gate, up)


def rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor, eps: float) -> Tensor:
    """weight * (x * rsqrt(mean x^2 + eps)), the second factor in x's dtype."""
    if weight.dtype == x.dtype:
        return fused.rms_norm(x, shape, weight, eps)
    return weight * fused.rms_norm(x, shape, None, eps)


def rope(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q and k times cos, plus their crossed halves times sin."""
    if q.dtype == k.dtype == cos.dtype:
        return fused.rope(q, k, cos, sin)
    own = [torch.promote_types(x.dtype, cos.dtype) for x in (q, k)]
    wide = torch.promote_types(*own)
    turned = fused.rope(q.to(wide), k.to(wide), cos, sin)
    return turned[0].to(own[0]), turned[1].to(own[1])
