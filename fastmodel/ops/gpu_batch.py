"""An optimizer's batch as the GPU's kernels take it: a table, and on the device what changes step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.batch import Batch
from fastmodel.ops.native import address, stream
from fastmodel.ops.tensor_table import Staging


class GpuBatch:
    """One batch of one device. What it holds must live until the kernel is launched."""

    def __init__(self, batch: Batch, columns: Sequence[list[Tensor]], steps: list[Tensor]) -> None:
        """As the kernel's columns and counts; stand-ins where layouts differ."""
        self._batch = batch
        self._device = batch.params[0].device
        self._staging = None
        self.table = batch.table
        if self.table is None:
            self._staging = Staging(writes_grads=batch.grad_scale is not None)
            self.table = self._staging.read(
                columns, steps, batch.ordinals, batch.state_dtype, is_for_gpu=True
            )
        self._held: list[Tensor] = []

    def options(self, has_found_inf: bool) -> dict[str, Any]:
        """The kernel's keywords that every optimizer has.

        Args:
            has_found_inf: shall the kernel look at found_inf?
        """
        batch, lr = self._batch, self._batch.group["lr"]
        is_lr_there = isinstance(lr, Tensor) and lr.device == self._device
        return {
            "lr": 0.0 if is_lr_there else float(lr),
            "lr_there": self._there(lr) if is_lr_there else 0,
            "weight_decay": float(batch.group["weight_decay"]),
            "is_maximizing": batch.group["maximize"],
            "grad_scale": self._there(batch.grad_scale),
            "found_inf": self._there(batch.found_inf) if has_found_inf else 0,
            "clip": self._there(batch.clip),
            "stream": stream(batch.params[0]),
        }

    def write_back(self) -> None:
        """Copy what the kernel wrote into stand-ins where it belongs."""
        if self._staging is not None:
            self._staging.write_back()

    def _there(self, value: Tensor | None) -> int:
        """The address of a float32 on the device."""
        if value is None:
            return 0
        value = value.detach().to(self._device, torch.float32)
        self._held.append(value)
        return address(value)


def waits_for(group: dict[str, Any], keys: Sequence[str]) -> str | None:
    """Why a step of this group would wait for the GPU, or None: an option that the host reads lies there."""
    for key in keys:
        values = group[key] if isinstance(group[key], tuple) else (group[key],)
        if any(isinstance(value, Tensor) and not value.is_cpu for value in values):
            return f"{key} lies on the GPU, and a step would wait for it"
    return None
