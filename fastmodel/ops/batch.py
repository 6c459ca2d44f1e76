"""What an optimizer's kernels take: parameters of one group, with their gradients and states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastmodel.ops import tensor_table

MASTER, AVERAGE = "master_param", "ema_param"
"""Entries of a state: the parameter in float32, and the average of its values."""


def wide_dtype(param: Tensor, state_dtype: torch.dtype | None) -> torch.dtype:
    """Of the entries of a parameter's state; state_dtype=float32 narrows no float64 parameter's."""
    if state_dtype != torch.float32:
        return state_dtype or param.dtype
    return torch.promote_types(param.dtype, torch.float32)


def extra_keys(has_master: bool, ema_decay: float | None) -> tuple[str, ...]:
    """The entries of a state that PyTorch has not, in the kernels' order."""
    return (MASTER,) * has_master + (AVERAGE,) * (ema_decay is not None)


_IMPLEMENTATIONS = "foreach=, or fused=False, asks for one of PyTorch's own implementations"


def options_refusal(group: dict[str, Any], can_capture: bool = False) -> str | None:
    """Why a kernel of ours does not step this group, from its options alone; None if it does.

    `can_capture`: does the kernel read on the device what changes from step to step?
    """
    if group["differentiable"] or (group.get("capturable") and not can_capture):
        return "differentiable steps, and capturable ones that no CUDA kernel takes, are PyTorch's"
    if not group["fused"] and (group["fused"] is not None or group["foreach"] is not None):
        return _IMPLEMENTATIONS
    for key in ("lr", "weight_decay"):
        if isinstance(group[key], Tensor) and group[key].requires_grad:
            return f"{key} wants a gradient"
    return None


@dataclass(slots=True)
class Batch:
    """Parameters of one group that one kernel steps together."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    """Of each parameter, as `torch.optim` lays it out; empty where the optimizer keeps none."""
    ordinals: list[int]
    """Of each parameter, its place among all of its optimizer."""
    state_dtype: torch.dtype | None = None
    """Of the state entries that are shaped like the parameter; None for the parameter's own."""
    has_master: bool = False
    """Does each state hold a float32 copy of its parameter, of which the parameter is the rounded value?"""
    ema_decay: float | None = None
    """Of the average of the parameter that each state holds; None for none."""
    is_for_gpu: bool = False
    """Do the kernels for GPUs, or their emulation, take the batch?"""
    refusal: str | None = None
    """Why a kernel of ours does not take the batch; None if it does."""
    table: tensor_table.Table | None = None
    """The native kernels' view of params, grads and states, where their layouts agree as they are."""
    clip: Tensor | None = None
    """The factor, on some device, that clips the gradients."""
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    """As `GradScaler` leaves them on the optimizer."""

    @property
    def is_left_out(self) -> bool:
        """Does `found_inf` say to leave the step out?"""
        return self.found_inf is not None and bool(self.found_inf.item())

    @property
    def extra_keys(self) -> tuple[str, ...]:
        """The entries of its states that PyTorch has not, in the kernels' order."""
        return extra_keys(self.has_master, self.ema_decay)

    @property
    def beyond_pytorch(self) -> str | None:
        """Why PyTorch's own step does not take the batch; None if it does."""
        if self.ema_decay is not None:
            return "PyTorch's step keeps no average of the parameters"
        if self.state_dtype is not None:
            return "PyTorch's step keeps the state in the parameter's dtype, not in state_dtype"
        return None

    def on_device(self, name: str) -> Tensor:
        """clip, grad_scale or found_inf, float32, where the parameters lie; a parameter in place of None."""
        value = getattr(self, name)
        lead = self.params[0]
        return lead if value is None else value.to(lead.device, torch.float32, non_blocking=True)

    def column(self, key: str) -> list[Any]:
        """One entry of every parameter's state."""
        return [state[key] for state in self.states]

    def unscale(self) -> None:
        """Divide the gradients by `grad_scale` in place, as PyTorch's fused step does."""
        if self.grad_scale is not None:
            scale = self.grad_scale.item()
            self.grads = [
                grad / scale if tensor_table.is_expanded(grad) else grad.div_(scale)
                for grad in self.grads
            ]
        self.grad_scale = self.found_inf = None

    def grad_factors(self) -> dict[str, float]:
        """What a native kernel multiplies the gradients by: to keep them so, and then for itself alone."""
        scale = 1.0 if self.grad_scale is None else self.grad_scale.item()
        clip = 1.0 if self.clip is None else self.clip.item()
        return {
            "grad_unscale": 1.0 / scale,
            "grad_factor": -clip if self.group["maximize"] else clip,
        }

    def clipped_grads(self) -> list[Tensor]:
        """The gradients times the clip; `.grad` itself is left as it is."""
        if self.clip is None:
            return self.grads
        return [grad * self.clip.to(grad.device) for grad in self.grads]
