"""geglu in plain PyTorch: the definition, the oracle and the last fallback.

    out = gelu(gate) * up            gate, up, out (...), of one shape and dtype
    gelu(z) = z * Phi(z), Phi(z) = (1 + erf(z / sqrt 2)) / 2

in float32 for lower precisions, rounded once. Backward keeps gate and up:

    grad_gate = grad * up * (Phi(gate) + gate * phi(gate)),  phi(z) = exp(-z^2 / 2) / sqrt(2 pi)
    grad_up   = grad * gelu(gate)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """out = gelu(gate) * up, contiguous."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (F.gelu(gate.to(wide)) * up.to(wide)).to(gate.dtype).contiguous()


def backward(grad: Tensor, gate: Tensor, up: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up; an empty tensor for each that `wanted` leaves out."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    grad, z = grad.to(wide), gate.to(wide)
    unwanted = gate.new_empty
    grad_gate = torch.ops.aten.gelu_backward(grad * up.to(wide), z) if wanted[0] else unwanted(0)
    grad_up = grad * F.gelu(z) if wanted[1] else unwanted(0)
    return grad_gate.to(gate.dtype).contiguous(), grad_up.to(gate.dtype).contiguous()
