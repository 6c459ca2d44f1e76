"""Checks of tensors that every op makes before anything is written; each failure is one line."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import torch

from fastmodel.errors import InputError

R = TypeVar("R")


def once_per_signature(function: Callable[..., R]) -> Callable[..., R]:
    """`function`, a pure one of sizes and options, worked out once for each set of them.

    A call of an op then checks its geometry by one look-up. Failures are not remembered, nor are calls with
    symbolic or traced sizes, or with lists.
    """
    remembered = functools.lru_cache(maxsize=4096, typed=True)(function)

    @functools.wraps(function)
    def call(*args):
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return function(*args)
        try:
            return remembered(*args)
        except TypeError:  # an argument has no hash; any other one is raised again
            return function(*args)

    return call


def same_device(op: str, lead_name: str, lead: torch.Tensor, **others) -> None:
    """Every tensor of `others` (None allowed) lies on lead's device.

    Raises:
        InputError: one does not.
    """
    for name, tensor in others.items():
        if tensor is not None and tensor.device != lead.device:
            raise InputError(
                f"{op}: {lead_name} is on {lead.device}, {name} on {tensor.device}; "
                f"move both to one device"
            )


def same_device_and_dtype(op: str, lead_name: str, lead: torch.Tensor, **others) -> None:
    """Every tensor of `others` (None allowed) lies on lead's device and has its dtype.

    Where autocast is on, dtypes that it brings together may differ.

    Raises:
        InputError: one does not.
    """
    device, dtype = lead.device, lead.dtype
    for name, tensor in others.items():
        if tensor is None:
            continue
        if tensor.device != device:
            same_device(op, lead_name, lead, **others)
        if tensor.dtype != dtype and not _autocast_unites(lead, tensor):
            raise InputError(
                f"{op}: {lead_name} is {dtype_name(lead.dtype)}, {name} is {dtype_name(tensor.dtype)}; "
                "convert one, or use torch.autocast"
            )


def _autocast_unites(a: torch.Tensor, b: torch.Tensor) -> bool:
    # Autocast leaves float64 as it is. The meta device knows no autocast.
    device_type = a.device.type
    return (
        torch.float64 not in (a.dtype, b.dtype)
        and torch.amp.is_autocast_available(device_type)
        and torch.is_autocast_enabled(device_type)
    )


def floating(op: str, name: str, tensor: torch.Tensor) -> None:
    """The tensor is of a real floating dtype.

    Raises:
        InputError: it is not.
    """
    if not tensor.is_floating_point():
        raise InputError(f"{op}: {name} must be floating point, it is {dtype_name(tensor.dtype)}")


def bias_shape(op: str, bias: torch.Tensor | None, features: int) -> None:
    """The bias is None or of shape (features,).

    Raises:
        InputError: it is neither.
    """
    if bias is not None and bias.shape != (features,):
        raise InputError(
            f"{op}: bias has shape {tuple(bias.shape)}; weight asks for shape ({features},) or None"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")
