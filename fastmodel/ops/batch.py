"""What an optimizer's kernels take: parameters of one group, with their gradients and states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastmodel.ops import tensor_table


@dataclass(slots=True)
class Batch:
    """Parameters of one group that one kernel steps together."""

    group: dict[str, Any]
    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    """Of each parameter, as `torch.optim` lays it out; empty where the optimizer keeps none."""
    refusal: str | None = None
    """Why a kernel of ours does not take the batch; None if it does."""
    table: tensor_table.Table | None = None
    """The native kernels' view of params, grads and states, where their layouts agree as they are."""
    clip: Tensor | None = None
    """The factor, on some device, that clips the gradients."""
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None
    """As `GradScaler` leaves them on the optimizer for `fused=True`."""

    def column(self, key: str) -> list[Any]:
        """One entry of every parameter's state."""
        return [state[key] for state in self.states]

    def unscale(self) -> bool:
        """Apply `grad_scale` to the gradients in place, as PyTorch's fused step does.

        Returns:
            False if `found_inf` says to leave the step out; nothing is written then.
        """
        if self.found_inf is not None and self.found_inf.item():
            return False
        if self.grad_scale is not None:
            scale = self.grad_scale.item()
            self.grads = [
                grad / scale if tensor_table.is_expanded(grad) else grad.div_(scale)
                for grad in self.grads
            ]
        self.grad_scale = self.found_inf = None
        return True

    def grad_factor(self) -> float:
        """What a kernel multiplies the gradients by: the clip, negated to maximize."""
        clip = 1.0 if self.clip is None else self.clip.item()
        return -clip if self.group["maximize"] else clip

    def clipped_grads(self) -> list[Tensor]:
        """The gradients times the clip; `.grad` itself is left as it is."""
        if self.clip is None:
            return self.grads
        return [grad * self.clip.to(grad.device) for grad in self.grads]
