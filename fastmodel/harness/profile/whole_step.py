"""A trial of the whole training step: as the script has it, and with all that fastmodel replaces, in turns.

Both steps are built from what the script was seen to do in one step: its model and batch, its loss, its
optimizer. Their numbers are held against float64 by the bench's own gate before anything is timed. Everything
happens on copies, with the random state put back; the script goes on from where it was.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness import gate
from fastmodel.harness.profile.losses import LossCall
from fastmodel.harness.profile.phases import RootCall
from fastmodel.harness.profile.trials import Tried, in_turns
from fastmodel.harness.workloads.arms import Arm, Loop, torch_optimizer
from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload
from fastmodel.optimize.levers import LOSSES, OPTIMIZERS, fused_loss


class NoTrialError(Exception):
    """The step cannot be built from what was seen, or its numbers are wrong."""


@dataclass(frozen=True)
class WholeStep:
    """What was tried, and how it went."""

    tried: Tried
    has_loss: bool
    """Without one, fixed gradients' stand-in: the sum of the outputs."""
    optimizer: torch.optim.Optimizer | None
    """The script's; None where the trial is of forward and backward alone."""
    replaced: tuple[str, ...] = ()
    """The patterns that were fused, in the model's order, each with its sites."""


class _Total(nn.Module):
    """In the place of a loss that was not seen."""

    def forward(self, output, targets):
        return output.float().sum()


class _Seen(Workload):
    """The script's step as a workload of one batch."""

    name, description = "script", "what the script was seen to do"

    def __init__(self, root: RootCall, loss: LossCall | None, spec: Optimizer) -> None:
        (x,) = root.args
        batch = Split(x, torch.zeros(len(x)) if loss is None else loss.targets)
        self.train = self.validation = self.test = batch
        self._root, self._loss, self._spec = root, loss, spec

    def model(self) -> nn.Module:
        return copy.deepcopy(self._root.model)

    def loss(self) -> nn.Module:
        return _Total() if self._loss is None else copy.deepcopy(self._loss.module)

    def optimizer(self) -> Optimizer:
        return self._spec


def whole_step(
    root: RootCall, losses: Sequence[LossCall], optimizers: Sequence[torch.optim.Optimizer]
) -> WholeStep:
    """Build both steps, hold them against float64, and time them in turns.

    Raises:
        NoTrialError: why not.
        Exception: whatever the model's author raises.
    """
    if len(root.args) != 1 or root.kwargs or not isinstance(root.args[0], torch.Tensor):
        raise NoTrialError("the model is called with more than one tensor")
    x = root.args[0]
    with torch.random.fork_rng([]), contextlib.redirect_stdout(io.StringIO()), torch.enable_grad():
        loss = _loss_of(root, losses)
        own = _optimizer_of(root.model, optimizers)
        spec = Optimizer("SGD", {"lr": 0.0}) if own is None else _spec(own)
        workload = _Seen(root, loss, spec)
        options = Options(batch_size=len(x), device=str(x.device))
        arms = [Arm("as it is", "", False, _plain), Arm("fastmodel", "", True, _fused)]
        found = gate.check(workload, options, *arms)
        if not found.passed:
            raise NoTrialError(f"its numbers are not float64's: {gate.failures(found)}")
        # With a rate of 0 the optimizer does its whole work and leaves the weights where they are.
        still = replace(spec, options={**spec.options, "lr": 0.0})
        tried, replaced = _time(_Seen(root, loss, still), options, arms, own is not None)
    return WholeStep(tried, loss is not None, own, replaced)


def _time(
    workload: _Seen, options: Options, arms: Sequence[Arm], has_optimizer: bool
) -> tuple[Tried, tuple[str, ...]]:
    x, targets = workload.train.inputs, workload.train.targets
    before, after = (arm.build(workload, options) for arm in arms)

    def step(loop: Loop) -> None:
        if has_optimizer:
            loop.step(x, targets)
            return
        loop.loss(loop.model(x), targets).backward()
        loop.model.zero_grad(set_to_none=True)

    sites: dict[str, list[str]] = {}
    for swap in fm.plan_of(after.model).swaps:
        sites.setdefault(swap.pattern, []).append(swap.site)
    replaced = tuple(f"{pattern} ({', '.join(names)})" for pattern, names in sites.items())
    return in_turns(lambda: step(before), lambda: step(after), x.device), replaced


def _loss_of(root: RootCall, losses: Sequence[LossCall]) -> LossCall | None:
    """The one loss that the model's output went into, as far as shapes tell."""
    with torch.no_grad():
        output = copy.deepcopy(root.model)(*root.args)
    if not isinstance(output, torch.Tensor):
        raise NoTrialError("the model returns more than one tensor")
    fits = [call for call in losses if call.output_shape == tuple(output.shape)]
    return fits[0] if len(fits) == len(losses) == 1 else None


def _optimizer_of(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> torch.optim.Optimizer | None:
    """The one that steps this model's parameters alone, in one group, and has a form of fastmodel's."""
    own = {id(p) for p in model.parameters()}
    fits = [o for o in optimizers if any(id(p) in own for g in o.param_groups for p in g["params"])]
    if len(fits) != 1 or type(fits[0]) not in OPTIMIZERS or len(fits[0].param_groups) != 1:
        return None
    stepped = {id(p) for p in fits[0].param_groups[0]["params"]}
    wanted = {id(p) for p in model.parameters() if p.requires_grad}
    return fits[0] if stepped == wanted else None


def _spec(optimizer: torch.optim.Optimizer) -> Optimizer:
    (group,) = optimizer.param_groups
    takes = inspect.signature(type(optimizer)).parameters
    values: dict[str, Any] = {k: v for k, v in group.items() if k in takes and k != "params"}
    if isinstance(values.get("lr"), torch.Tensor):
        values["lr"] = values["lr"].item()
    return Optimizer(type(optimizer).__name__, values)


def _plain(workload: Workload, options: Options) -> Loop:
    model = workload.model()
    optimizer = torch_optimizer(workload.optimizer(), model.parameters())
    return Loop(model, workload.loss(), optimizer, torch.contiguous_format, options.device)


def _fused(workload: Workload, options: Options) -> Loop:
    model = fm.optimize(workload.model(), (workload.train.inputs,), select="static")
    spec, loss = workload.optimizer(), workload.loss()
    kind = OPTIMIZERS[getattr(torch.optim, spec.name)]
    optimizer = kind(model.parameters(), **spec.options)
    if type(loss) in LOSSES:
        loss = fused_loss(loss)
    return Loop(model, loss, optimizer, torch.contiguous_format, options.device)
