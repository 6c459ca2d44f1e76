"""The drop-in for torch.amp.GradScaler."""

from __future__ import annotations

from typing import Any

import torch

from fastmodel.ops.optimizers import FusedStep


class GradScaler(torch.amp.GradScaler):
    """`torch.amp.GradScaler` that looks for infinities and takes the gradients' norm in one read.

    Arguments, state_dict and use are PyTorch's. Before a step of an optimizer of `fm.optim` PyTorch's scaler
    reads and writes every gradient to find out whether one is infinite or NaN; this one reads them once, and
    with `max_grad_norm` the step takes the norm from that same read: unscaling, check, clipping and the step
    are two reads of the gradients. On a GPU nothing is waited for. Other optimizers, `unscale_` by hand, and
    gradients that are sparse, sharded or stepped by PyTorch, go PyTorch's way.

    Source: `torch.amp.GradScaler`.
    """

    def _check_inf_per_device(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        sums = optimizer.square_sums() if isinstance(optimizer, FusedStep) else None
        if sums is None:
            return super()._check_inf_per_device(optimizer)
        # By device, whatever PyTorch's annotation says.
        found_inf: dict[Any, Any] = {
            total.device: (~total.isfinite()).to(torch.float32) for total in sums
        }
        self._per_optimizer_states[id(optimizer)]["found_inf_per_device"] = found_inf
        return found_inf
