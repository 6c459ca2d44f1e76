"""geglu_tanh in plain PyTorch: the definition, the oracle and the last fallback.

    out = gelu(gate) * up            gate, up, out (...), of one shape and dtype
    gelu(z) = z * (1 + tanh(u)) / 2 = z * s,  u = sqrt(2 / pi) (z + 0.044715 z^3), s = sigmoid(2 u)

in float32 for lower precisions, rounded once. Backward keeps gate and up:

    grad_gate = grad * up * (s + z * s * (1 - s) * 2 u'),  u' = sqrt(2 / pi) (1 + 3 * 0.044715 z^2), z = gate
    grad_up   = grad * gelu(gate)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(gate: Tensor, up: Tensor) -> Tensor:
    """out = gelu(gate) * up, contiguous."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    out = F.gelu(gate.to(wide), approximate="tanh") * up.to(wide)
    return out.to(gate.dtype).contiguous()


def backward(grad: Tensor, gate: Tensor, up: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up; an empty tensor for each that `wanted` leaves out."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    grad, z = grad.to(wide), gate.to(wide)
    grad_gate = grad_up = gate.new_empty(0)
    if wanted[0]:
        grad_gate = torch.ops.aten.gelu_backward(grad * up.to(wide), z, approximate="tanh")
    if wanted[1]:
        grad_up = grad * F.gelu(z, approximate="tanh")
    return grad_gate.to(gate.dtype).contiguous(), grad_up.to(gate.dtype).contiguous()
