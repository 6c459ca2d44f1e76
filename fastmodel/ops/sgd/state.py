"""What SGD's kernels share: the making of momentum buffers."""

from __future__ import annotations

import torch

from fastmodel.ops.batch import Batch, wide_dtype


def make_buffers(batch: Batch) -> list[bool]:
    """Give each state its buffer; returns which of them hold nothing yet."""
    are_first = [state.get("momentum_buffer") is None for state in batch.states]
    for param, state, is_first in zip(batch.params, batch.states, are_first, strict=True):
        if is_first:
            state["momentum_buffer"] = torch.empty_like(
                param, dtype=wide_dtype(param, batch.state_dtype), requires_grad=False
            )
    return are_first
