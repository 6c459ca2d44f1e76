"""The levers: everything that a selection may change about a training step, each by name.

A lever says why it cannot be pulled, or pulls itself on a built step. The swaps of single places are one of
them ("sites"); what they are is found in the model, place by place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

import fastmodel.nn as fused_nn
import fastmodel.optim as fused_optim
from fastmodel import capture
from fastmodel.errors import InputError
from fastmodel.optimize.forward import ENTRY, Entry, captured_class, is_image, uncaptured
from fastmodel.optimize.step import Training, as_kind
from fastmodel.optimize.trial import Examples, Observation

LOSSES: dict[type, Any] = {
    nn.CrossEntropyLoss: fused_nn.CrossEntropyLoss,
    nn.MSELoss: fused_nn.MSELoss,
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # from PyTorch 2.12 on
    LOSSES[nn.LinearCrossEntropyLoss] = fused_nn.LinearCrossEntropyLoss
OPTIMIZERS: Mapping[type, Any] = {
    torch.optim.Adam: fused_optim.Adam,
    torch.optim.AdamW: fused_optim.AdamW,
    torch.optim.SGD: fused_optim.SGD,
}


@dataclass(frozen=True)
class Subject:
    """What levers are asked about."""

    model: nn.Module
    examples: Examples
    training: Training
    seen: Observation
    device: torch.device


@dataclass(frozen=True)
class Built:
    """A training step as built so far."""

    model: nn.Module
    training: Training


@dataclass(frozen=True)
class Lever:
    """One named change."""

    name: str
    title: str
    refusal: Callable[[Subject], str | None]
    """Why it cannot be pulled here; None where it can."""
    pull: Callable[[Built], Built]
    is_default: bool = True
    """Is it tried without being asked for by name?"""


def _never(subject: Subject) -> str | None:
    return None


def _as_it_is(built: Built) -> Built:
    return built


def _channels_last_refusal(subject: Subject) -> str | None:
    given = (subject.examples.args, subject.examples.kwargs)
    images = [leaf for leaf in pytree.tree_leaves(given) if is_image(leaf)]
    if not images:
        return "no image (a floating tensor of 4 dimensions) among the example inputs"
    if all(image.is_contiguous(memory_format=torch.channels_last) for image in images):
        return "the images are channels_last already, or have one channel, which reads as both"
    calls = (name for name, found in subject.seen.calls.items() if found)
    if not any(isinstance(subject.model.get_submodule(name), nn.Conv2d) for name in calls):
        return "the model calls no Conv2d"
    return None


def _with_entry(built: Built, **changes: Any) -> Built:
    model = built.model
    model.__class__ = captured_class(uncaptured(type(model)))  # type: ignore[arg-type]
    model.__dict__[ENTRY] = replace(model.__dict__.get(ENTRY, Entry()), **changes)
    return built


def _loss_refusal(subject: Subject) -> str | None:
    loss = subject.training.loss
    if loss is None:
        return "no loss was given"
    if type(loss) not in LOSSES:
        known = ", ".join(f"nn.{kind.__name__}" for kind in LOSSES)
        return f"{_name(loss)} has no fused form; {known} have"
    if getattr(loss, "out_features", ()) != ():
        return "a loss of several dimensions is PyTorch's alone"
    return None


def fused_loss(loss: nn.Module) -> nn.Module:
    """The fused module of a loss in LOSSES."""
    return LOSSES[type(loss)].from_torch(loss)


def _optimizer_refusal(subject: Subject) -> str | None:
    optimizer = subject.training.optimizer
    if optimizer is None:
        return "no optimizer was given"
    if type(optimizer) not in OPTIMIZERS:
        known = ", ".join(f"torch.optim.{kind.__name__}" for kind in OPTIMIZERS)
        return f"{_name(optimizer)} has no fused form; {known} have"
    return None


def fused_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The fused optimizer over the same parameters, options and state."""
    return as_kind(optimizer, OPTIMIZERS[type(optimizer)])


def _pull_loss(built: Built) -> Built:
    assert isinstance(built.training.loss, nn.Module)
    return replace(built, training=replace(built.training, loss=fused_loss(built.training.loss)))


def _pull_optimizer(built: Built) -> Built:
    assert built.training.optimizer is not None
    made = fused_optimizer(built.training.optimizer)
    return replace(built, training=replace(built.training, optimizer=made))


def _compile_refusal(subject: Subject) -> str | None:
    if isinstance(subject.model, nn.Sequential):
        return "nn.Sequential.compile() compiles nothing in PyTorch 2.13; wrap it in a module"
    return None


def _pull_compile(built: Built) -> Built:
    built.model.compile(dynamic=False)
    return built


def _cuda_graph_refusal(subject: Subject) -> str | None:
    if subject.device.type != "cuda":
        return f"the model is on {subject.device.type}, which has no CUDA graphs"
    if subject.training.loss is None or subject.training.optimizer is None:
        return (
            "a graph is of a whole step: fm.optimize_step, with a loss and an optimizer, tries it"
        )
    refusal = capture.refusal_of(subject.model, subject.training.optimizer)
    if refusal is not None and _optimizer_refusal(subject) is None:
        # The fused optimizer, which may stand in its place by then, can be captured where it cannot.
        fused = fused_optimizer(subject.training.optimizer)
        refusal = capture.refusal_of(subject.model, fused)
    return refusal


def _pull_cuda_graph(built: Built) -> Built:
    optimizer = built.training.optimizer
    if optimizer is not None:  # one of its own: a capture makes its groups capturable
        optimizer = as_kind(optimizer, type(optimizer))
    training = replace(built.training, optimizer=optimizer, is_captured=True)
    return replace(built, training=training)


LEVERS: tuple[Lever, ...] = (
    Lever("sites", "fused modules in the places that win", _never, _as_it_is),
    Lever(
        "channels_last",
        "images laid out channels_last, at the model's entry",
        _channels_last_refusal,
        lambda built: _with_entry(built, channels_last=True),
    ),
    Lever("loss", "the loss in one pass", _loss_refusal, _pull_loss),
    Lever("optimizer", "the optimizer's step in one pass", _optimizer_refusal, _pull_optimizer),
    Lever(
        "autocast",
        "the forward under autocast to bfloat16",
        _never,
        lambda built: _with_entry(built, autocast=torch.bfloat16),
        is_default=False,
    ),
    Lever(
        "compile",
        "torch.compile of what is left",
        _compile_refusal,
        _pull_compile,
        is_default=False,
    ),
    Lever(
        "cuda_graph",
        "the whole step as one CUDA graph, by fm.capture_step",
        _cuda_graph_refusal,
        _pull_cuda_graph,
        is_default=False,
    ),
)
BY_NAME = {lever.name: lever for lever in LEVERS}
DEFAULT = tuple(lever.name for lever in LEVERS if lever.is_default)


def checked(names: Iterable[str]) -> tuple[Lever, ...]:
    """The levers of these names, in the order in which they are pulled.

    Raises:
        InputError: a name is unknown.
    """
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in BY_NAME:
            known = ", ".join(BY_NAME)
            raise InputError(f"optimize: levers has {name!r}; known are {known}")
    return tuple(lever for lever in LEVERS if lever.name in asked)


def pull(built: Built, names: Iterable[str]) -> Built:
    """Pull these levers, in their order."""
    for lever in checked(names):
        built = lever.pull(built)
    return built


def _name(value: object) -> str:
    return getattr(value, "__name__", type(value).__name__)
