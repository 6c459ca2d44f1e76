"""Trials of a change on the script's own model and batch: forward and backward, before and after, in turns.

Everything happens on copies, with the random state put back; the script goes on from where it was.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel.harness.profile.phases import RootCall
from fastmodel.timing import Estimate, interleave, mean_ratio, now_s, paired_ratios

_PAIRS = 8
_BUDGET_S = 4.0
_WINDOW_S = 0.02


@dataclass(frozen=True)
class Tried:
    """How long a call takes before and after a change, without the profiler."""

    before_s: float
    after_s: float
    ratio: Estimate
    """Before over after, from pairs of windows in turns."""

    def saved_s(self, step_s: float) -> float:
        """Of a step that holds this call, by the paired ratio: what drifts meets both sides alike.

        The call takes at most the step; where it was seen to take longer, the machine was busier then.
        """
        return min(self.before_s, step_s) * (1 - 1 / self.ratio.value)


def channels_last(root: RootCall) -> Tried:
    """As it is, and in channels_last."""

    def changed(model: nn.Module) -> nn.Module:
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def inputs(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    return _try(root, changed, inputs, contextlib.nullcontext)


def autocast(root: RootCall, dtype: torch.dtype = torch.bfloat16) -> Tried:
    """As it is, and under autocast."""
    device = _device(root.model).type
    return _try(root, lambda m: m, lambda t: t, lambda: torch.autocast(device, dtype))


def _try(
    root: RootCall,
    change: Callable[[nn.Module], nn.Module],
    change_input: Callable[[torch.Tensor], torch.Tensor],
    context: Callable[[], contextlib.AbstractContextManager],
) -> Tried:
    device = _device(root.model)
    gpus = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(gpus),
        contextlib.redirect_stdout(io.StringIO()),
        torch.enable_grad(),
    ):
        before = copy.deepcopy(root.model)
        after = change(copy.deepcopy(root.model))
        arguments = (root.args, root.kwargs)
        changed = pytree.tree_map_only(torch.Tensor, change_input, arguments)

        def plain() -> None:
            _there_and_back(before, arguments)

        def altered() -> None:
            with context():
                out = after(*changed[0], **changed[1])
            _backward(out, after)

        return in_turns(plain, altered, device)


def in_turns(before: Callable[[], None], after: Callable[[], None], device: torch.device) -> Tried:
    """Time two calls in turns, within a few seconds.

    A window is so many calls that the faster one fills it: after each change of sides the caches are cold.
    """
    once_s = []
    for call in (before, after):
        call()
        call()
        start_s = now_s(device)
        call()
        once_s.append(max(now_s(device) - start_s, 1e-6))
    calls = max(1, math.ceil(_WINDOW_S / min(once_s)))
    pairs = max(2, min(_PAIRS, int(_BUDGET_S / (sum(once_s) * calls))))

    def window(call: Callable[[], None]) -> Callable[[], None]:
        def repeat() -> None:
            for _ in range(calls):
                call()

        return repeat

    arms = {"before": window(before), "after": window(after)}
    samples = list(interleave(arms, pairs, device))
    before_s, after_s = (
        statistics.median(s.time_s for s in samples if s.arm == arm) / calls for arm in arms
    )
    return Tried(before_s, after_s, mean_ratio(paired_ratios(samples, "before", "after")))


def _there_and_back(model: nn.Module, arguments: tuple) -> None:
    _backward(model(*arguments[0], **arguments[1]), model)


def _backward(out: object, model: nn.Module) -> None:
    tensors = [
        leaf
        for leaf in pytree.tree_leaves(out)
        if isinstance(leaf, torch.Tensor) and leaf.requires_grad and leaf.is_floating_point()
    ]
    if tensors:
        total = tensors[0].float().sum()
        for tensor in tensors[1:]:
            total = total + tensor.float().sum()
        total.backward()
    for parameter in model.parameters():
        parameter.grad = None


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
