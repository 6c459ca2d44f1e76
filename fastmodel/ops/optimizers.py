"""What the drop-in optimizers share: one step, from the parameters' gradients to the chosen kernels.

A step gathers each parameter group into batches of tensors that one kernel takes together, chooses the
kernel of every batch through the kernel table, and only then writes. Tensors are looked at anew in every
step (`.data` and `.grad` may have been reassigned since); nothing of them is kept between steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fastmodel import env
from fastmodel.errors import InputError
from fastmodel.ops import dispatch, tensor_table
from fastmodel.ops.batch import Batch

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
    max_grad_norm: float | None

    def _states(self, group: dict[str, Any], params: list[Tensor]) -> list[dict[str, Any]]:
        """The state of each parameter, made where it is missing."""
        raise NotImplementedError

    def _columns(
        self, group: dict[str, Any], states: list[dict[str, Any]]
    ) -> tuple[list[list[Tensor | None]], list[Tensor]]:
        """The entries of `states` that are shaped like the parameters; and the step counts, if any."""
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
        return self._step(closure)

    @torch._disable_dynamo
    def _step_outside_graph(self, closure: Callable[[], Any] | None) -> Any:
        """Tracers see no addresses: a compiled loop leaves its graph for the step."""
        return self._step(closure)

    def _step(self, closure: Callable[[], Any] | None) -> Any:
        loss = None
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            batches = [batch for group in self.param_groups for batch in self._batches(group)]
            kernels = [
                dispatch.choose(self._op, "step", batch.params[0], batch) for batch in batches
            ]
            if self.max_grad_norm is not None and batches:
                self._clip(batches)
            for kernel, batch in zip(kernels, batches, strict=True):
                kernel(batch.params[0], batch)
        return loss

    def _batches(self, group: dict[str, Any]) -> list[Batch]:
        params, grads = [], []
        for param in group["params"]:
            grad = param.grad
            if grad is not None:
                params.append(param)
                grads.append(grad)
        if not params:
            return []
        states = self._states(group, params)
        scale = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        whole = Batch(group, params, grads, states, None, None, None, *scale)
        whole.refusal = _options_refusal(group, scale != (None, None)) or env.native_missing()
        if whole.refusal is None and dispatch.requested() not in ("library", "reference"):
            columns, steps = self._columns(group, states)
            whole.table = tensor_table.read([params, grads, *columns], steps)
            if whole.table is None:
                return self._split(whole, columns, steps)
        elif any(grad.is_sparse for grad in grads):
            self._check_group(group)
        return [whole]

    def _split(
        self, whole: Batch, columns: list[list[Tensor | None]], steps: list[Tensor]
    ) -> list[Batch]:
        """Part what a native kernel takes, after staging, from what goes to PyTorch's step."""
        if any(grad.is_sparse for grad in whole.grads):
            self._check_group(whole.group)
        batches: dict[tuple, Batch] = {}
        for i, (param, grad, *entries) in enumerate(
            zip(whole.params, whole.grads, *columns, strict=True)
        ):
            refusal = tensor_table.refusal(param, grad, entries, steps[i] if steps else None)
            key = (param.device, param.dtype, refusal)
            if key not in batches:
                batches[key] = replace(whole, params=[], grads=[], states=[], refusal=refusal)
            batches[key].params.append(param)
            batches[key].grads.append(grad)
            if whole.states:
                batches[key].states.append(whole.states[i])
        return list(batches.values())

    def _clip(self, batches: list[Batch]) -> None:
        """Give every batch the factor of `torch.nn.utils.clip_grad_norm_`."""
        assert self.max_grad_norm is not None
        grads = [grad for batch in batches for grad in batch.grads]
        norm = torch.nn.utils.get_total_norm(grads)
        scale = batches[0].grad_scale
        if scale is not None:
            norm = norm / scale.to(norm.device)
        clip = torch.clamp(self.max_grad_norm / (norm + 1e-6), max=1.0)
        for batch in batches:
            batch.clip = clip

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_grad_norm": self.max_grad_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("max_grad_norm", None)


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
