"""The drop-ins for torch.optim.Adam and torch.optim.AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastmodel.errors import InputError
from fastmodel.ops.adam.state import keys
from fastmodel.ops.batch import wide_dtype
from fastmodel.ops.optimizers import FusedStep

_STATE_DTYPES = (torch.bfloat16, torch.float32)


class _AdamStep(FusedStep):
    _op = "adam"
    _has_steps = True
    _moments = frozenset({"exp_avg", "exp_avg_sq", "max_exp_avg_sq"})

    def _take_options(
        self,
        max_grad_norm: float | None,
        state_dtype: torch.dtype | None,
        master_weights: bool,
        ema_decay: float | None,
        *,
        foreach: bool | None,
        fused: bool | None,
        capturable: bool,
        differentiable: bool,
    ) -> None:
        if state_dtype not in (None, *_STATE_DTYPES):
            raise InputError(
                f"{type(self).__name__}: state_dtype is {state_dtype}; pass torch.bfloat16, "
                "torch.float32, or None"
            )
        self._take_own_options(
            max_grad_norm,
            master_weights,
            ema_decay,
            state_dtype,
            foreach=foreach is not None,
            fused=fused is False,
            # Moments rounded at random are the CPU's, where PyTorch's step alone is capturable.
            capturable=capturable and state_dtype == torch.bfloat16,
            differentiable=differentiable,
        )

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        return keys(group) + self._extra_keys(group)

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        if not params[0].is_cpu:
            self._check_capture()
        states = list(map(self.state.__getitem__, params))
        if not all(states) or group["foreach"]:
            if self.state_dtype is not None:
                self._make_states(group, params, states)
            self._check_group(group)
        self._make_extras(params, states)
        return states

    def _make_states(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]]
    ) -> None:
        """As PyTorch makes them, but for the dtype of the moments."""
        for param, state in zip(params, states, strict=True):
            if param.is_complex():
                raise InputError(
                    "adam: a parameter is complex; leave out state_dtype, master_weights and ema_decay"
                )
            if not state:
                device = param.device if group["fused"] or group["capturable"] else "cpu"
                state["step"] = torch.zeros((), dtype=torch.float32, device=device)
                for key in keys(group):
                    state[key] = torch.zeros_like(
                        param,
                        dtype=wide_dtype(param, self.state_dtype),
                        memory_format=torch.preserve_format,
                    )

    def _check_group(self, group: dict[str, Any]) -> None:
        self._init_group(group, [], [], [], [], [], [])  # type: ignore[attr-defined]


class Adam(_AdamStep, torch.optim.Adam):
    """`torch.optim.Adam` whose step is one pass over memory, with gradient clipping folded in.

    Arguments, state and state_dict are those of `torch.optim.Adam`; a state_dict saved by either loads into
    the other. float32 and bfloat16 parameters on the CPU, and float16 ones too on an NVIDIA GPU, are stepped
    by fastmodel's kernels (with float32 arithmetic, each result rounded once), all else by PyTorch's own
    step. `foreach=True` or False, and `fused=False`, ask for one of PyTorch's implementations and get it.

    Args:
        params: as in `torch.optim.Adam`, as are the others but the last four.
        max_grad_norm: clip the gradients of all parameters of this optimizer together to this norm, as
            `torch.nn.utils.clip_grad_norm_` followed by a step; None for no clipping. It costs one more read
            of the gradients; `.grad` is left unclipped. It is no part of the state_dict: pass it again when
            resuming.
        state_dtype: torch.bfloat16 keeps the moments (exp_avg, exp_avg_sq, max_exp_avg_sq) in bfloat16,
            rounded at random so that they stay right on average (rounded to nearest, exp_avg_sq would stall:
            at beta2 = 0.999 its increments are below half a unit in the last place). With float32 parameters
            a step moves 20 bytes a parameter instead of 28, and the moments take 4 instead of 8. The price is
            noise: each moment is off by up to 2^-7 of itself, so single steps differ from PyTorch's by about
            that share of their length, and runs depend on the seed. The random bits come from
            `torch.initial_seed()`, the step count, the parameter's place and the element's: deterministic
            under `torch.manual_seed`, independent of the number of threads, with nothing to save, and the
            global generator is not advanced. Replicas of one model must share the seed. torch.float32 keeps
            the moments of bfloat16 and float16 parameters in float32. It is no part of the state_dict: pass
            it again when resuming; a state that is loaded is converted. None for PyTorch's choice, the
            parameter's own dtype.
        master_weights: keep bfloat16 and float16 parameters in float32 too, in the state as "master_param",
            with float32 moments: a step changes that copy, and writes its rounded value into the parameter in
            the same pass. Pass it again when resuming.
        ema_decay: keep the exponential moving average of every parameter's values, in the state as
            "ema_param", in the same pass: average = ema_decay * average + (1 - ema_decay) * value, in float32
            as the moments are then too (in bfloat16 it would stall). It begins as the value at the first
            step. Pass it again when resuming. None for no average.

    Raises:
        InputError: max_grad_norm is not above 0; state_dtype is neither None nor bfloat16 or float32;
            ema_decay is outside [0, 1); it or master_weights comes with state_dtype=torch.bfloat16; or one of
            these comes with an option that asks for PyTorch's own implementation.
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
        state_dtype: torch.dtype | None = None,
        master_weights: bool = False,
        ema_decay: float | None = None,
    ) -> None:
        self._take_options(
            max_grad_norm,
            state_dtype,
            master_weights,
            ema_decay,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
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
        params: as in `torch.optim.AdamW`, as are the others but the last four.
        max_grad_norm: as in `Adam`.
        state_dtype: as in `Adam`.
        master_weights: as in `Adam`.
        ema_decay: as in `Adam`.

    Raises:
        InputError: as `Adam`.
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
        state_dtype: torch.dtype | None = None,
        master_weights: bool = False,
        ema_decay: float | None = None,
    ) -> None:
        self._take_options(
            max_grad_norm,
            state_dtype,
            master_weights,
            ema_decay,
            foreach=foreach,
            fused=fused,
            capturable=capturable,
            differentiable=differentiable,
        )
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
