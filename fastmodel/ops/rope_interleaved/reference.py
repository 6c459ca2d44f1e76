"""rope_interleaved in plain PyTorch: the definition, the oracle and the last fallback.

    x (B, H, T, D), cos and sin (T, D), (1, T, D) or (B, T, D); for even i and j = i + 1

    out[i] = x[i] cos[i] - x[j] sin[i]
    out[j] = x[j] cos[j] + x[i] sin[j]

for x = q and x = k, in float32 for lower precisions, rounded once. Backward keeps the tables:

    grad_x[i] = grad[i] cos[i] + grad[j] sin[j]
    grad_x[j] = grad[j] cos[j] - grad[i] sin[i]
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastmodel.ops import rotary


def forward(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """q and k turned."""
    return _turned(q, cos, sin), _turned(k, cos, sin)


def backward(
    grad_q: Tensor, grad_k: Tensor, cos: Tensor, sin: Tensor, wanted: list[bool]
) -> tuple[Tensor, Tensor]:
    """Gradients of q and k; an empty tensor for each that `wanted` leaves out."""
    back = torch.stack([-sin[..., 1::2], -sin[..., 0::2]], dim=-1).flatten(-2)
    return (
        _turned(grad_q, cos, back) if wanted[0] else grad_q.new_empty(0),
        _turned(grad_k, cos, back) if wanted[1] else grad_k.new_empty(0),
    )


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    even, odd = x[..., 0::2].to(wide), x[..., 1::2].to(wide)
    crossed = torch.stack([-odd, even], dim=-1).flatten(-2)
    cos, sin = rotary.heads(cos).to(wide), rotary.heads(sin).to(wide)
    return rotary.laid_out_as(x, x.to(wide) * cos + crossed * sin)
