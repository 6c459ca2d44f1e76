"""Where fastmodel has a fused kernel in the script's own models, as `fm.optimize` finds the places."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness.profile.phases import RootCall
from fastmodel.optimize import Candidate, Decision

# Class of the fused module, the op of the kernel table, and what of a chain it takes in.
FUSED: dict[str, tuple[str, tuple[str, ...]]] = {
    "ConvReLUMaxPool2d": ("conv_relu_maxpool", ("relu", "pool")),
    "ConvReLU2d": ("conv_relu", ("relu",)),
    "LinearReLU": ("linear_relu", ("relu",)),
    "LinearReLUDropout": ("linear_relu_dropout", ("relu", "dropout")),
    "LinearGELU": ("linear_gelu", ("activation",)),
    "LinearSiLU": ("linear_silu", ("activation",)),
    "LinearSigmoid": ("linear_sigmoid", ("activation",)),
    "LinearTanh": ("linear_tanh", ("activation",)),
}


@dataclass(frozen=True)
class Site:
    """A place where a fused module fits."""

    name: str
    pattern: str
    module: str
    """Class of the fused module."""
    x_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    is_channels_last: bool
    dtype: str


def sites(roots: Sequence[RootCall]) -> tuple[list[Site], dict[str, str]]:
    """The sites of all models that were called, and why a model could not be read."""
    found: list[Site] = []
    missing: dict[str, str] = {}
    for root in roots:
        kind = type(root.model).__name__
        if root.kwargs and root.args:
            missing[kind] = "it is called with positional and keyword arguments"
            continue
        examples = root.kwargs or root.args
        if not examples:
            missing[kind] = "it is called without arguments"
            continue
        seen: list[Candidate] = []

        def look(candidate: Candidate, seen: list[Candidate] = seen) -> Decision:
            seen.append(candidate)
            return Decision(False, "looked at, not swapped")

        try:
            # What the model prints in these runs is no output of the script's.
            with contextlib.redirect_stdout(io.StringIO()):
                fm.optimize(root.model, examples, select=look)
        except Exception as error:  # whatever the model's author raises
            missing[kind] = f"fm.optimize: {' '.join(str(error).split())[:200]}"
            continue
        found += [site for candidate in seen if (site := _site(candidate)) is not None]
    return found, missing


def _site(candidate: Candidate) -> Site | None:
    module = type(candidate.fused).__name__
    if module not in FUSED or candidate.shape is None:
        return None
    anchor: nn.Module = candidate.plain[0]
    weight = anchor.weight
    assert isinstance(weight, torch.Tensor)
    is_channels_last = (
        weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
    )
    return Site(
        name=candidate.site,
        pattern=candidate.pattern,
        module=module,
        x_shape=tuple(candidate.shape),
        weight_shape=tuple(weight.shape),
        is_channels_last=is_channels_last,
        dtype=str(candidate.dtype).removeprefix("torch."),
    )
