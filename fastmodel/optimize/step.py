"""One training step of a model, as the whole that a selection is judged by."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel import capture
from fastmodel.errors import InputError
from fastmodel.optimize.trial import Examples


@dataclass(frozen=True)
class Training:
    """What stands around the model in a training step."""

    loss: Callable[[Any, Any], torch.Tensor] | None = None
    """Called as loss(output, targets), and may have Parameters of its own; None sends fixed gradients into
    the model's outputs."""
    optimizer: torch.optim.Optimizer | None = None
    targets: Any = None
    is_captured: bool = False
    """Is the whole step one CUDA graph, where it can be captured?"""


def step_of(model: nn.Module, examples: Examples, training: Training) -> Callable[[], object]:
    """A function that runs one training step: gradients to None, forward, backward, optimizer.

    Raises:
        InputError: no output depends on a parameter that wants a gradient.
    """
    grads: list[torch.Tensor] = []
    modules = [m for m in (model, training.loss) if isinstance(m, nn.Module)]
    writes = _writes_to_its_inputs(model, examples)

    def step() -> torch.Tensor | None:
        for module in modules:
            module.zero_grad(set_to_none=True)
        given = examples.fresh() if writes else examples
        output = model(*given.args, **given.kwargs)
        loss = None
        if training.loss is not None:
            loss = training.loss(output, training.targets)
            loss.backward()
        else:
            ends = differentiable(output)
            if not grads:
                generator = torch.Generator().manual_seed(0)
                grads.extend(_noise_like(end, generator) for end in ends)
            torch.autograd.backward(ends, grads)
        if training.optimizer is not None:
            training.optimizer.step()
        return None if loss is None else loss.detach()

    if training.is_captured and training.loss is not None and training.optimizer is not None:
        refusal = capture.refusal_of(model, training.optimizer)
        return capture.captured(step, model, training.optimizer, (), refusal)  # type: ignore[arg-type]
    return step


def _writes_to_its_inputs(model: nn.Module, examples: Examples) -> bool:
    given = examples.fresh()
    leaves = [t for t in pytree.tree_leaves((given.args, given.kwargs)) if torch.is_tensor(t)]
    before = [leaf._version for leaf in leaves]
    with torch.no_grad():
        model(*given.args, **given.kwargs)
    return before != [leaf._version for leaf in leaves]


def differentiable(output: Any) -> list[torch.Tensor]:
    """The tensors of an output that a gradient can be sent into."""
    leaves = pytree.tree_leaves(output)
    ends = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if not ends:
        raise InputError(
            "optimize: no output of the model has a gradient, so there is no training step to measure; "
            "unfreeze its parameters, or pass select='static'"
        )
    return ends


def _noise_like(end: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(end.shape, generator=generator, dtype=torch.float32)
    return torch.empty_like(end).copy_(noise)


def optimizer_over(
    optimizer: torch.optim.Optimizer, twins: dict[torch.Tensor, torch.Tensor], *, lr: float | None
) -> torch.optim.Optimizer:
    """A copy of an optimizer and its state over other tensors; a parameter without a twin gets a copy.

    Args:
        optimizer: any; not changed.
        twins: parameter to the tensor that takes its place.
        lr: of every group; None to keep it. At 0 a step does its whole work and leaves the parameters.
    """
    twin = copy.deepcopy(optimizer)
    for group, own in zip(twin.param_groups, optimizer.param_groups, strict=True):
        if lr is not None:
            group["lr"] = torch.full_like(own["lr"], lr) if torch.is_tensor(own["lr"]) else lr
        for index, parameter in enumerate(own["params"]):
            other = twins.get(parameter)
            if other is None:
                continue
            copied = group["params"][index]
            group["params"][index] = other
            if copied in twin.state:
                twin.state[other] = twin.state.pop(copied)
    return twin


def as_kind(
    optimizer: torch.optim.Optimizer, kind: type[torch.optim.Optimizer]
) -> torch.optim.Optimizer:
    """An optimizer of another class over the same parameters, options and state."""
    takes = inspect.signature(kind).parameters
    groups = [dict(group) for group in optimizer.param_groups]
    defaults = {k: v for k, v in optimizer.defaults.items() if k in takes}
    made = kind(groups, **defaults)
    for parameter, state in optimizer.state.items():
        made.state[parameter] = dict(state)
    return made
