"""The drop-in for torch.optim.SGD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.optimizers import FusedStep, checked_max_grad_norm


class SGD(FusedStep, torch.optim.SGD):
    """`torch.optim.SGD` whose step is one pass over memory, with gradient clipping folded in.

    Arguments, state and state_dict are those of `torch.optim.SGD`; a state_dict saved by either loads into
    the other. float32 and bfloat16 parameters on the CPU, and float16 ones too on an NVIDIA GPU, are stepped
    by fastmodel's kernels (with float32 arithmetic, each result rounded once), all else by PyTorch's own
    step. `foreach=True` or False, and `fused=False`, ask for one of PyTorch's implementations and get it.

    Args:
        params: as in `torch.optim.SGD`, as are the others but the last.
        max_grad_norm: clip the gradients of all parameters of this optimizer together to this norm, as
            `torch.nn.utils.clip_grad_norm_` followed by a step; None for no clipping. It costs one more read
            of the gradients; `.grad` is left unclipped. It is no part of the state_dict: pass it again when
            resuming.

    Raises:
        InputError: max_grad_norm is not above 0.
        ValueError: as `torch.optim.SGD`.
    """

    _op = "sgd"
    _has_steps = False

    def __init__(
        self,
        params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        max_grad_norm: float | None = None,
    ) -> None:
        self.max_grad_norm = checked_max_grad_norm("SGD", max_grad_norm)
        super().__init__(
            params,
            lr,
            momentum,
            dampening,
            weight_decay,
            nesterov,
            maximize=maximize,
            foreach=foreach,
            differentiable=differentiable,
            fused=fused,
        )

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        # Without momentum PyTorch leaves the state empty, and so do we.
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _must_check(self, group: dict[str, Any]) -> bool:
        return bool(group["fused"]) and getattr(self, "_need_device_dtype_check_for_fused", True)

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        if self._must_check(group):
            self._check_group(group)
        return list(map(self.state.__getitem__, params)) if self._keys(group) else []

    def _check_group(self, group: dict[str, Any]) -> None:
        self._init_group(group, [], [], [])
