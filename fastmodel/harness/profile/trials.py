"""Trials of a change on the script's own model and batch: forward and backward, before and after, in turns.

Everything happens on copies, with the random state put back; the script goes on from where it was.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel.harness.profile.phases import RootCall
from fastmodel.timing import Estimate, interleave, mean_ratio, now_s, paired_ratios

_PAIRS = 8
_BUDGET_S = 4.0


def channels_last(root: RootCall) -> Estimate:
    """Time as it is over time in channels_last."""

    def changed(model: nn.Module) -> nn.Module:
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def inputs(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)

    return _ratio(root, changed, inputs, contextlib.nullcontext)


def autocast(root: RootCall, dtype: torch.dtype = torch.bfloat16) -> Estimate:
    """Time as it is over time under autocast."""
    device = _device(root.model).type
    return _ratio(root, lambda m: m, lambda t: t, lambda: torch.autocast(device, dtype))


def _ratio(
    root: RootCall,
    change: Callable[[nn.Module], nn.Module],
    change_input: Callable[[torch.Tensor], torch.Tensor],
    context: Callable[[], contextlib.AbstractContextManager],
) -> Estimate:
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

        for _ in range(2):
            plain()
            altered()
        start_s = now_s(device)
        plain()
        once_s = max(now_s(device) - start_s, 1e-6)
        pairs = max(2, min(_PAIRS, int(_BUDGET_S / (2 * once_s))))
        samples = list(interleave({"before": plain, "after": altered}, pairs, device))
    return mean_ratio(paired_ratios(samples, "before", "after"))


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
