"""What the drop-in optimizers share: one step, from the parameters' gradients to the chosen kernels.

A step gathers each parameter group into batches of tensors that one kernel takes together, chooses the
kernel of every batch through the kernel table, and only then writes. Consecutive batches of one kernel, over
all groups, are one call of it. Tensors are looked at anew in every step (`.data` and `.grad` may have been
reassigned since); nothing of them is kept between steps.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor
from torch._C._autograd import _profiler_enabled
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from fastmodel import env
from fastmodel.ops import dispatch, tensor_table
from fastmodel.ops.batch import MASTER, Batch, options_refusal
from fastmodel.ops.grad_norm import clip_factor, square_sums
from fastmodel.ops.own_state import OwnState


def _is_for_gpu(param: Tensor) -> bool:
    """Do the kernels for GPUs step it, or their emulation, which takes the CPU's tensors by name?"""
    return param.is_cuda or (dispatch.requested() == "cuda" and "cuda" in env.simulated())


def _missing(is_for_gpu: bool) -> str | None:
    """Why the kernels are not there, or None if they are."""
    return env.native_missing() or (env.cuda_missing() if is_for_gpu else None)


def _dtensor() -> type | None:
    """The class of sharded tensors, or None where nobody has one: who has one has imported it."""
    module = sys.modules.get("torch.distributed.tensor")  # whose import takes long
    return None if module is None else module.DTensor


def _take_local_shards(batch: Batch, keys: tuple[str, ...]) -> None:
    """Replace DTensors by this process's shards, where parameter, gradient and state are sharded alike.

    Elementwise steps need no more; a norm over all shards does, and is left to PyTorch.
    """
    dtensor = _dtensor()
    if dtensor is None:
        return
    for i, (param, grad) in enumerate(zip(batch.params, batch.grads, strict=True)):
        state = batch.states[i] if keys else {}
        row: list[Any] = [param, grad, *(state.get(key) for key in keys)]
        if not all(isinstance(tensor, dtensor) for tensor in row):
            continue
        if any(
            (tensor.device_mesh, tensor.placements) != (row[0].device_mesh, row[0].placements)
            for tensor in row
        ):
            continue
        batch.params[i], batch.grads[i], *entries = (tensor.to_local() for tensor in row)
        if keys:
            batch.states[i] = {**state, **dict(zip(keys, entries, strict=True))}


class FusedStep(OwnState):
    """The step of a drop-in optimizer; stands before the `torch.optim` class among the bases."""

    _op: str
    """The op's name in the kernel table."""
    _has_steps: bool
    """Does each state hold a step count?"""
    _step_supports_amp_scaling = True
    """A `GradScaler` leaves unscaling, and the step's being left out, to the step."""
    _square_sums: list[Tensor] | None = None
    """Of the gradients that the next step finds, where `square_sums` was asked for them."""

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
        has_hooks = self._has_step_hooks()
        if has_hooks or closure is not None:
            self._square_sums = None  # either may change the gradients
        if has_hooks or _profiler_enabled():
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

    @torch.no_grad()
    def square_sums(self) -> list[Tensor] | None:
        """The sum of the squares of the gradients as they lie, of each device; the step that follows uses it.

        float64, and finite if every gradient is. None where PyTorch has to look at them: sparse or sharded
        ones, and what its own step takes.
        """
        dtensor = _dtensor()
        params = (param for group in self.param_groups for param in group["params"])
        if dtensor is not None and any(isinstance(param, dtensor) for param in params):
            return None
        batches = self._all_batches()
        if any(batch.table is None for batch in batches):
            return None
        self._square_sums = square_sums(batches)
        return self._square_sums

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss, sums = None, self._square_sums
        self._square_sums = None
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            batches = self._all_batches()
            kernels = [
                dispatch.choose(self._op, "step", batch.params[0], [batch]) for batch in batches
            ]
            if self.max_grad_norm is not None and batches:
                clip = clip_factor(batches, self.max_grad_norm, sums)
                for batch in batches:
                    batch.clip = clip
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
        if not group["params"]:
            return []
        scale = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        lead = group["params"][0]
        is_for_gpu = _is_for_gpu(lead)
        if is_for_gpu and lead.is_cuda and self._has_steps:
            self._check_capture()
        refusal = options_refusal(group, is_for_gpu) or _missing(is_for_gpu)
        is_for_native = refusal is None and dispatch.requested() not in ("library", "reference")
        keys = self._keys(group)
        extras: dict[str, Any] = {
            "state_dtype": self.state_dtype,
            "ema_decay": self.ema_decay,
            "is_for_gpu": is_for_gpu,
            "grad_scale": scale[0],
            "found_inf": scale[1],
        }
        if is_for_native and not self._must_check(group):
            found = tensor_table.read_group(
                group["params"],
                self.state,
                keys,
                self._has_steps,
                first_ordinal,
                self.state_dtype,
                is_for_gpu,
            )
            if found is not None:
                table, params, grads, states, ordinals = found
                if not params:
                    return []
                extras["has_master"] = self._has_master(params[0])
                return [Batch(group, params, grads, states, ordinals, table=table, **extras)]
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
        extras["has_master"] = self._has_master(params[0])
        whole = Batch(group, params, grads, states, ordinals, refusal=refusal, **extras)
        if is_for_native:
            if self.max_grad_norm is None:
                _take_local_shards(whole, keys)
            return self._flat_or_split(whole, keys)
        if any(grad.is_sparse for grad in grads):
            self._check_group(group)
        if self.master_weights:
            return self._split(whole, [refusal] * len(params))
        return [whole]

    def _check_capture(self) -> None:
        """Raise, as PyTorch does, if a step that is not capturable is captured into a graph."""
        # PyTorch has renamed it.
        names = ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check")
        next(getattr(self, name) for name in names if hasattr(self, name))()

    def _must_check(self, group: dict[str, Any]) -> bool:
        """Does PyTorch check this group anew in its next step?"""
        return False

    def _flat_or_split(self, whole: Batch, keys: tuple[str, ...]) -> list[Batch]:
        """Give the batch its table, or part what needs staging from what goes to PyTorch's step."""
        columns = [[state.get(key) for state in whole.states] for key in keys]
        steps = whole.column("step") if self._has_steps else []
        whole.table = tensor_table.read(
            [whole.params, whole.grads, *columns],
            steps,
            whole.ordinals,
            self.state_dtype,
            whole.is_for_gpu,
        )
        if whole.table is not None:
            return [whole]
        if any(grad.is_sparse for grad in whole.grads):
            self._check_group(whole.group)
        refusals = []
        for i, (param, grad, *entries) in enumerate(
            zip(whole.params, whole.grads, *columns, strict=True)
        ):
            if self.master_weights and not self._has_master(param):
                entries = [e for e, key in zip(entries, keys, strict=True) if key != MASTER]
            step = steps[i] if steps else None
            refusals.append(
                tensor_table.refusal(
                    param, grad, entries, step, self.state_dtype, _is_for_gpu(param)
                )
            )
        return self._split(whole, refusals)

    def _split(self, whole: Batch, refusals: list[str | None]) -> list[Batch]:
        """Batches of one device, dtype and refusal each."""
        batches: dict[tuple, Batch] = {}
        for i, (param, refusal) in enumerate(zip(whole.params, refusals, strict=True)):
            key = (param.device, param.dtype, refusal)
            if key not in batches:
                batches[key] = replace(
                    whole,
                    params=[],
                    grads=[],
                    states=[],
                    ordinals=[],
                    refusal=refusal,
                    has_master=self._has_master(param),
                    is_for_gpu=_is_for_gpu(param),
                )
            batches[key].params.append(param)
            batches[key].grads.append(whole.grads[i])
            batches[key].ordinals.append(whole.ordinals[i])
            if whole.states:
                batches[key].states.append(whole.states[i])
        return list(batches.values())


_observed_step = torch.optim.Optimizer.profile_hook_step(FusedStep._step)
