"""The drop-in for torch.optim.SGD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmodel.ops.optimizers import FusedStep


class SGD(FusedStep, torch.optim.SGD):
    """`torch.optim.SGD` whose step is one pass over memory, with gradient clipping folded in.

    Arguments, state and state_dict are those of `torch.optim.SGD`; a state_dict saved by either loads into
    the other. float32 and bfloat16 parameters on the CPU, and float16 ones too on an NVIDIA GPU, are stepped
    by fastmodel's kernels (with float32 arithmetic, each result rounded once), all else by PyTorch's own
    step. `foreach=True` or False, and `fused=False`, ask for one of PyTorch's implementations and get it.

    Args:
        params: as in `torch.optim.SGD`, as are the others but the last three.
        max_grad_norm: clip the gradients of all parameters of this optimizer together to this norm, as
            `torch.nn.utils.clip_grad_norm_` followed by a step; None for no clipping. It costs one more read
            of the gradients; `.grad` is left unclipped. It is no part of the state_dict: pass it again when
            resuming.
        master_weights: keep bfloat16 and float16 parameters in float32 too, in the state as "master_param",
            with a float32 momentum buffer: a step changes that copy, and writes its rounded value into the
            parameter in the same pass. Pass it again when resuming.
        ema_decay: keep the exponential moving average of every parameter's values, in the state as
            "ema_param", in the same pass: average = ema_decay * average + (1 - ema_decay) * value, in float32
            as the momentum buffer is then too (in bfloat16 it would stall). It begins as the value at the
            first step. Pass it again when resuming. None for no average.

    Raises:
        InputError: max_grad_norm is not above 0; ema_decay is outside [0, 1); or it or master_weights comes
            with an option that asks for PyTorch's own implementation.
        ValueError: as `torch.optim.SGD`.
    """

    _op = "sgd"
    _has_steps = False
    _moments = frozenset({"momentum_buffer"})

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
        master_weights: bool = False,
        ema_decay: float | None = None,
    ) -> None:
        self._take_own_options(
            max_grad_norm,
            master_weights,
            ema_decay,
            foreach=foreach is not None,
            fused=fused is False,
            differentiable=differentiable,
        )
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
        return ("momentum_buffer",) * (group["momentum"] != 0) + self._extra_keys(group)

    def _must_check(self, group: dict[str, Any]) -> bool:
        return bool(group["fused"]) and getattr(self, "_need_device_dtype_check_for_fused", True)

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        if self._must_check(group):
            self._check_group(group)
        if not self._keys(group):
            return []
        states = list(map(self.state.__getitem__, params))
        self._make_extras(params, states)
        return states

    def _check_group(self, group: dict[str, Any]) -> None:
        self._init_group(group, [], [], [])
