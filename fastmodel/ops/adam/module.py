"""The drop-ins for torch.optim.Adam and torch.optim.AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.adam import native_kernel
from fastmodel.ops.optimizers import FusedStep, checked_max_grad_norm


class _AdamStep(FusedStep):
    _op = "adam"

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        if not params[0].is_cpu:
            self._accelerator_graph_capture_health_check()
        states = list(map(self.state.__getitem__, params))
        if not all(states) or group["foreach"]:
            self._check_group(group)
        return states

    def _columns(self, group, states):
        columns = [[state[key] for state in states] for key in native_kernel.keys(group)]
        return columns, [state["step"] for state in states]

    def _check_group(self, group: dict[str, Any]) -> None:
        self._init_group(group, [], [], [], [], [], [])  # type: ignore[attr-defined]


class Adam(_AdamStep, torch.optim.Adam):
    """`torch.optim.Adam` whose step is one pass over memory, with gradient clipping folded in.

    Arguments, state and state_dict are those of `torch.optim.Adam`; a state_dict saved by either loads into
    the other. float32 and bfloat16 parameters on the CPU are stepped by fastmodel's kernel (bfloat16 with
    float32 arithmetic, each result rounded once), all else by PyTorch's own step. `foreach=True` or False,
    and `fused=False`, ask for one of PyTorch's implementations and get it.

    Args:
        params: as in `torch.optim.Adam`, as are the others but the last.
        max_grad_norm: clip the gradients of all parameters of this optimizer together to this norm, as
            `torch.nn.utils.clip_grad_norm_` followed by a step; None for no clipping. `.grad` is left
            unclipped. It is no part of the state_dict: pass it again when resuming.

    Raises:
        InputError: max_grad_norm is not above 0.
        ValueError: as `torch.optim.Adam`.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        max_grad_norm: float | None = None,
    ) -> None:
        self.max_grad_norm = checked_max_grad_norm("Adam", max_grad_norm)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )


class AdamW(_AdamStep, torch.optim.AdamW):
    """`torch.optim.AdamW` whose step is one pass over memory, with gradient clipping folded in.

    See `Adam` for what is served by which kernel.

    Args:
        params: as in `torch.optim.AdamW`, as are the others but the last.
        max_grad_norm: as in `Adam`.

    Raises:
        InputError: max_grad_norm is not above 0.
        ValueError: as `torch.optim.AdamW`.
    """

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self.max_grad_norm = checked_max_grad_norm("AdamW", max_grad_norm)
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
        )
