"""swiglu in plain PyTorch: the definition, the oracle and the last fallback.

    out = silu(gate) * up            gate, up, out (...), of one shape and dtype
    silu(z) = z * sigmoid(z)

in float32 for lower precisions, rounded once. Backward keeps gate and up:

    grad_gate = grad * up * s * (1 + gate * (1 - s)),  s = sigmoid(gate)
    grad_up   = grad * silu(gate)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """out = silu(gate) * up, contiguous."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (F.silu(gate.to(wide)) * up.to(wide)).to(gate.dtype).contiguous()


def backward(grad: Tensor, gate: Tensor, up: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up; an empty tensor for each that `wanted` leaves out."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    grad, z = grad.to(wide), gate.to(wide)
    s = torch.sigmoid(z)
    slope = s * (1 + z * torch.sigmoid(-z))
    unwanted = gate.new_empty
    return (
        (grad * up.to(wide) * slope).to(gate.dtype).contiguous() if wanted[0] else unwanted(0),
        (grad * z * s).to(gate.dtype).contiguous() if wanted[1] else unwanted(0),
    )
