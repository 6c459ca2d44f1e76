"""What the drop-in optimizers share: one step, from the parameters' gradients to the chosen kernels.

A step gathers each parameter group into batches of tensors that one kernel takes together, chooses the
kernel of every batch through the kernel table, and only then writes. Consecutive batches of one kernel, over
all groups, are one call of it. Tensors are looked at anew in every step (`.data` and `.grad` may have been
reassigned since); nothing of them is kept between steps.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastmodel import env
from fastmodel.errors import InputError
from fastmodel.ops import dispatch, tensor_table
from fastmodel.ops.batch import Batch
from fastmodel.ops.native import threads

_IMPLEMENTATIONS = "foreach=, or fused=False, asks for one of PyTorch's own implementations"


def _options_refusal(group: dict[str, Any], is_scaled: bool) -> str | None:
    """Why a kernel of ours does not step this group, from its options alone; None if it does."""
    if group["differentiable"] or group.get("capturable"):
        return "differentiable and capturable steps are PyTorch's"
    if not group["fused"] and (group["fused"] is not None or group["foreach"] is not None):
        return _IMPLEMENTATIONS
    if is_scaled and not group["fused"]:
        return "grad_scale and found_inf need fused=True"
    for key in ("lr", "weight_decay"):
        if isinstance(group[key], Tensor) and group[key].requires_grad:
            return f"{key} wants a gradient"
    return None


class FusedStep(torch.optim.Optimizer):
    """The step of a drop-in optimizer; stands before the `torch.optim` class among the bases."""

    _op: str
    """The op's name in the kernel table."""
    _has_steps: bool
    """Does each state hold a step count?"""
    max_grad_norm: float | None
    state_dtype: torch.dtype | None = None
    """Of the state entries that are shaped like the parameter; None for the parameter's own."""

    def _keys(self, group: dict[str, Any]) -> tuple[str, ...]:
        """The entries of a state that are shaped like the parameter."""
        raise NotImplementedError

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        """The state of each parameter, made where it is missing; empty where there are no keys."""
        raise NotImplementedError

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise what PyTorch's step raises for this group."""
        raise NotImplementedError

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform a single optimization step.

        Args:
            closure: reevaluates the model and returns the loss.

        Returns:
            The closure's loss, or None.

        Raises:
            BackendError: `use_backend` asked for a backend that cannot serve the step; nothing has been
                written then.
        """
        if torch.compiler.is_compiling():
            return self._step_outside_graph(closure)
        if _profiler_enabled() or self._has_step_hooks():
            return _observed_step(self, closure)
        return self._step(closure)

    # PyTorch wraps `step` of every optimizer in profiling and hooks unless it is marked: they cost as much
    # as a small model's step, so `step` goes through them itself where somebody is there to see.
    step.hooked = True  # type: ignore[attr-defined]

    def _has_step_hooks(self) -> bool:
        return bool(
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _global_optimizer_pre_hooks
            or _global_optimizer_post_hooks
        )

    @torch._disable_dynamo
    def _step_outside_graph(self, closure: Callable[[], Any] | None) -> Any:
        """Tracers see no addresses: a compiled loop leaves its graph for the step."""
        return _observed_step(self, closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters, as `torch.optim.Optimizer.zero_grad`."""
        if not set_to_none or torch.compiler.is_compiling() or _profiler_enabled():
            return super().zero_grad(set_to_none)
        for group in self.param_groups:
            for param in group["params"]:
                param.grad = None

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            batches = self._all_batches()
            kernels = [
                dispatch.choose(self._op, "step", batch.params[0], [batch]) for batch in batches
            ]
            if self.max_grad_norm is not None and batches:
                self._clip(batches, self.max_grad_norm)
            served = zip(kernels, batches, strict=True)
            for kernel, pairs in itertools.groupby(served, key=itemgetter(0)):
                run = [batch for _, batch in pairs]
                kernel(run[0].params[0], run)
        return loss

    def _all_batches(self) -> list[Batch]:
        batches, ordinal = [], 0
        for group in self.param_groups:
            batches += self._batches(group, ordinal)
            ordinal += len(group["params"])
        return batches

    def _batches(self, group: dict[str, Any], first_ordinal: int) -> list[Batch]:
        scale = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        refusal = _options_refusal(group, scale != (None, None)) or env.native_missing()
        is_for_native = refusal is None and dispatch.requested() not in ("library", "reference")
        keys = self._keys(group)
        if is_for_native and not self._must_check(group):
            found = tensor_table.read_group(
                group["params"], self.state, keys, self._has_steps, first_ordinal, self.state_dtype
            )
            if found is not None:
                table, params, grads, states, ordinals = found
                if not params:
                    return []
                return [
                    Batch(
                        group,
                        params,
                        grads,
                        states,
                        ordinals,
                        self.state_dtype,
                        None,
                        table,
                        None,
                        *scale,
                    )
                ]
        ordinals, params, grads = [], [], []
        for ordinal, param in enumerate(group["params"], first_ordinal):
            grad = param.grad
            if grad is not None:
                ordinals.append(ordinal)
                params.append(param)
                grads.append(grad)
        if not params:
            return []
        states = self._states(group, params)
        whole = Batch(
            group, params, grads, states, ordinals, self.state_dtype, refusal, None, None, *scale
        )
        if is_for_native:
            return self._flat_or_split(whole, keys)
        if any(grad.is_sparse for grad in grads):
            self._check_group(group)
        return [whole]

    def _must_check(self, group: dict[str, Any]) -> bool:
        """Does PyTorch check this group anew in its next step?"""
        return False

    def _flat_or_split(self, whole: Batch, keys: tuple[str, ...]) -> list[Batch]:
        """Give the batch its table, or part what needs staging from what goes to PyTorch's step."""
        columns = [[state.get(key) for state in whole.states] for key in keys]
        steps = whole.column("step") if self._has_steps else []
        whole.table = tensor_table.read(
            [whole.params, whole.grads, *columns], steps, whole.ordinals, self.state_dtype
        )
        if whole.table is not None:
            return [whole]
        if any(grad.is_sparse for grad in whole.grads):
            self._check_group(whole.group)
        batches: dict[tuple, Batch] = {}
        for i, (param, grad, *entries) in enumerate(
            zip(whole.params, whole.grads, *columns, strict=True)
        ):
            step = steps[i] if steps else None
            refusal = tensor_table.refusal(param, grad, entries, step, self.state_dtype)
            key = (param.device, param.dtype, refusal)
            if key not in batches:
                batches[key] = replace(
                    whole, params=[], grads=[], states=[], ordinals=[], refusal=refusal
                )
            batches[key].params.append(param)
            batches[key].grads.append(grad)
            batches[key].ordinals.append(whole.ordinals[i])
            if whole.states:
                batches[key].states.append(whole.states[i])
        return list(batches.values())

    @staticmethod
    def _clip(batches: list[Batch], max_grad_norm: float) -> None:
        """Give every batch the factor of `torch.nn.utils.clip_grad_norm_`.

        Gradients in tables are summed in float64, in one sweep; the others by PyTorch.
        """
        tables = [batch.table for batch in batches if batch.table is not None]
        others = [grad for batch in batches if batch.table is None for grad in batch.grads]
        norm = torch.nn.utils.get_total_norm(others)
        if tables:
            square_sum = env.native().grad_square_sum_cpu(tables, threads())
            norm = torch.tensor(math.sqrt(square_sum + norm.item() ** 2), dtype=torch.float64)
        scale = batches[0].grad_scale
        if scale is not None:
            norm = norm / scale.to(norm.device)
        clip = torch.clamp(max_grad_norm / (norm + 1e-6), max=1.0)
        for batch in batches:
            batch.clip = clip

    def __getstate__(self) -> dict[str, Any]:
        own = {"max_grad_norm": self.max_grad_norm, "state_dtype": self.state_dtype}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("max_grad_norm", None)


_observed_step = torch.optim.Optimizer.profile_hook_step(FusedStep._step)


def checked_max_grad_norm(op: str, value: float | None) -> float | None:
    """`max_grad_norm` as a float.

    Raises:
        InputError: it is neither None nor a number above 0.
    """
    if value is None:
        return None
    if not isinstance(value, (int, float)) or math.isnan(value) or value <= 0:
        raise InputError(f"{op}: max_grad_norm is {value!r}; pass a number above 0, or None")
    return float(value)
