"""What the gated linear units share: out = activation(gate) * up, element by element.

gate and up are of one shape and dtype, often halves of one packed projection. Each op's own folder has its
activation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastmodel.env import native
from fastmodel.errors import InputError
from fastmodel.ops import checks
from fastmodel.ops.native import DTYPE_CODES, address, threads


def united(op: str, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """gate and up, in the dtype that PyTorch's product of them has.

    Raises:
        InputError: they do not fit together.
    """
    if gate.shape != up.shape:
        raise InputError(
            f"{op}: gate has shape {tuple(gate.shape)}, up has {tuple(up.shape)}; "
            "pass both of one shape"
        )
    if gate.device != up.device:
        checks.same_device(op, "gate", gate, up=up)
    if gate.dtype != up.dtype:
        dtype = torch.promote_types(gate.dtype, up.dtype)
        gate, up = gate.to(dtype), up.to(dtype)
    checks.floating(op, "gate", gate)
    return gate, up


def rows(tensor: Tensor) -> tuple[Tensor, int]:
    """The tensor and the step between its rows; a copy where its rows are not evenly spaced runs."""
    if tensor.is_contiguous() or tensor.dim() < 2:
        return tensor.contiguous(), tensor.shape[-1] if tensor.dim() else 1
    if tensor.stride(-1) == 1:
        step = tensor.stride(-2)
        expected = step * tensor.shape[-2]
        for size, stride in zip(
            reversed(tensor.shape[:-2]), reversed(tensor.stride()[:-2]), strict=True
        ):
            if stride != expected and size != 1:
                break
            expected *= size
        else:
            return tensor, step
    return tensor.contiguous(), tensor.shape[-1]


def gradients_like(gate: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Unwritten gradients of gate and up, contiguous; empty for each that is not wanted."""
    return (
        gate.new_empty(gate.shape if wanted[0] else (0,)),
        gate.new_empty(gate.shape if wanted[1] else (0,)),
    )


class NativeGate:
    """The wrappers of csrc/<op>."""

    def __init__(self, op: str) -> None:
        self._op = op

    def _kernel(self, pass_: str) -> Callable[..., None]:
        return getattr(native(), f"{self._op}_{pass_}_cpu")

    def forward_cpu(self, gate: Tensor, up: Tensor) -> Tensor:
        """out = activation(gate) * up."""
        (gate, gate_step), (up, up_step) = rows(gate), rows(up)
        out = gate.new_empty(gate.shape)
        columns = gate.shape[-1] if gate.dim() else 1
        self._kernel("forward")(
            address(gate),
            address(up),
            address(out),
            out.numel() // max(columns, 1),
            columns,
            gate_step,
            up_step,
            DTYPE_CODES[gate.dtype],
            threads(),
        )
        return out

    def backward_cpu(
        self, grad: Tensor, gate: Tensor, up: Tensor, wanted: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Gradients of gate and up; an empty tensor for each that `wanted` leaves out."""
        (grad, grad_step), (gate, gate_step), (up, up_step) = rows(grad), rows(gate), rows(up)
        grad_gate, grad_up = gradients_like(gate, wanted)
        columns = gate.shape[-1] if gate.dim() else 1
        self._kernel("backward")(
            address(grad),
            address(gate),
            address(up),
            address(grad_gate) if wanted[0] else 0,
            address(grad_up) if wanted[1] else 0,
            gate.numel() // max(columns, 1),
            columns,
            grad_step,
            gate_step,
            up_step,
            DTYPE_CODES[gate.dtype],
            threads(),
        )
        return grad_gate, grad_up
