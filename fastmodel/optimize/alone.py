"""Modules that have a twin of their own, whatever follows them: Linear, LayerNorm, RMSNorm.

The twin computes the same; where no kernel of ours is the faster one, it would be a longer way to PyTorch's.
So each is swapped where the kernel table has one that is worth it for the call at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

import fastmodel.nn as fused_nn
from fastmodel.ops import dispatch, table
from fastmodel.ops.linear import worth as linear_worth


@dataclass(frozen=True)
class Twin:
    """What may stand in the place of a module alone."""

    op: str
    make: Callable[[nn.Module], nn.Module]
    """Builds it over the Parameters of the module that it is given."""


TWINS: dict[type[nn.Module], Twin] = {
    nn.Linear: Twin("linear", fused_nn.Linear.from_torch),  # type: ignore[arg-type]
    nn.LayerNorm: Twin("layer_norm", fused_nn.LayerNorm.from_torch),  # type: ignore[arg-type]
    nn.RMSNorm: Twin("rms_norm", fused_nn.RMSNorm.from_torch),  # type: ignore[arg-type]
}
NORMS = (nn.LayerNorm, nn.RMSNorm)
FUSED = (fused_nn.Linear, fused_nn.LayerNorm, fused_nn.RMSNorm)


def refusal(
    anchor: nn.Module,
    shape: tuple[int, ...] | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
) -> str | None:
    """Why a module's twin would be no faster for this call; None where it would.

    Args:
        anchor: of a class in TWINS.
        shape: of its input.
        dtype: of its input.
        device: where that lies.
    """
    op = TWINS[type(anchor)].op
    if shape is None or dtype is None or device is None:
        return "its input is not known"
    served = no_kernel(op, dtype, device)
    if served is not None:
        return served
    if isinstance(anchor, nn.Linear) and device.type == "cpu" and dispatch.requested() is None:
        rows = math.prod(shape[:-1])
        return linear_worth.of_size(rows, anchor.in_features, anchor.out_features, dtype)
    return None


def no_kernel(op: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """Why no row of an op but its definition would serve a tensor; None where one would."""
    requested = dispatch.requested()
    refusals = []
    for row in table.rows_of(op, "forward"):
        if row.backend == "reference" or requested not in (None, row.backend):
            continue
        reason = row.reason or row.takes(device.type, dtype)
        if reason is None:
            return None
        refusals.append(reason)
    return f"no kernel of {op} serves it" + (f" ({'; '.join(refusals)})" if refusals else "")
