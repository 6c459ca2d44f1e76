"""What the drop-in optimizers keep beyond PyTorch's state: its dtype, float32 masters, averages."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops.batch import AVERAGE, MASTER, extra_keys, wide_dtype

OWN_OPTIONS = ("max_grad_norm", "state_dtype", "master_weights", "ema_decay")
"""Attributes that PyTorch's optimizers have not, and no state_dict holds."""


class OwnState(torch.optim.Optimizer):
    """Options that PyTorch's optimizers have not, and the entries of the state that they ask for."""

    _moments: ClassVar[frozenset[str]]
    """PyTorch's entries of a state that are shaped like the parameter."""
    max_grad_norm: float | None
    state_dtype: torch.dtype | None = None
    """Of the state entries that are shaped like the parameter; None for the parameter's own."""
    master_weights: bool = False
    """Do the states of bfloat16 and float16 parameters hold float32 copies of them?"""
    ema_decay: float | None = None
    """Of the average of each parameter; None for none."""

    def _take_own_options(
        self,
        max_grad_norm: float | None,
        master_weights: bool,
        ema_decay: float | None,
        state_dtype: torch.dtype | None = None,
        **pytorchs: bool,
    ) -> None:
        """Check and keep them; `pytorchs` are options that ask for PyTorch's own step."""
        op = type(self).__name__
        self.max_grad_norm = _checked_max_grad_norm(op, max_grad_norm)
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise InputError(
                f"{op}: ema_decay is {ema_decay!r}; pass a number from 0 below 1, or None"
            )
        for name, is_set in (
            ("master_weights", master_weights),
            ("ema_decay", ema_decay is not None),
        ):
            if is_set and state_dtype == torch.bfloat16:
                raise InputError(
                    f"{op}: {name}= keeps its state in float32, state_dtype= asks for bfloat16; leave one out"
                )
        own = {
            "state_dtype": state_dtype is not None,
            "master_weights": master_weights,
            "ema_decay": ema_decay is not None,
        }
        for asked in (name for name, is_set in own.items() if is_set):
            for name in (name for name, is_asked_for in pytorchs.items() if is_asked_for):
                raise InputError(
                    f"{op}: {name}= asks for PyTorch's own step, which has no {asked}; leave one out"
                )
        is_wide = master_weights or ema_decay is not None
        self.state_dtype = torch.float32 if is_wide else state_dtype
        self.master_weights = master_weights
        self.ema_decay = ema_decay

    def _has_master(self, param: Tensor) -> bool:
        return self.master_weights and param.dtype in (torch.bfloat16, torch.float16)

    def _extra_keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The entries of the group's states that PyTorch has not, in the kernels' order."""
        has_masters = self.master_weights and any(map(self._has_master, group["params"]))
        return extra_keys(has_masters, self.ema_decay)

    def _make_extras(self, params: list[Tensor], states: list[dict[str, Any]]) -> None:
        if not self.master_weights and self.ema_decay is None:
            return
        for param, state in zip(params, states, strict=True):
            if self._has_master(param) and MASTER not in state:
                state[MASTER] = param.detach().float()
            if self.ema_decay is not None and AVERAGE not in state:
                dtype = wide_dtype(param, self.state_dtype)
                state[AVERAGE] = param.detach().to(dtype, copy=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in OWN_OPTIONS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("max_grad_norm", None)
        if self.state_dtype is not None:
            # PyTorch loads every entry in the parameter's dtype.
            for param, entries in self.state.items():
                for key in entries.keys() & self._moments:
                    if entries[key] is not None:
                        entries[key] = entries[key].to(wide_dtype(param, self.state_dtype))

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As `torch.optim.Optimizer.load_state_dict`; entries wider than their parameter keep their bits."""
        super().load_state_dict(state_dict)
        saved = itertools.chain.from_iterable(g["params"] for g in state_dict["param_groups"])
        params = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
        for name, param in zip(saved, params, strict=True):
            entries = self.state.get(param, {})
            for key in entries.keys() & (self._moments | {MASTER, AVERAGE}):
                value = state_dict["state"][name][key]
                if value is None:
                    continue
                dtype = value.dtype if key == MASTER else wide_dtype(param, self.state_dtype)
                if value.dtype != param.dtype:
                    entries[key] = value.to(param.device, dtype, copy=True)


def _checked_max_grad_norm(op: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
        raise InputError(f"{op}: max_grad_norm is {value!r}; pass a number above 0, or None")
    return float(value)
