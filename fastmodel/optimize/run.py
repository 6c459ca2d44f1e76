"""`fm.optimize`: find the places, let a strategy choose, swap, check, and leave the plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fastmodel.errors import BackendError, InputError
from fastmodel.optimize import functional, sequential
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.plan import ATTRIBUTE, Place, Plan
from fastmodel.optimize.search import Finder, Site
from fastmodel.optimize.select import Strategy, static
from fastmodel.optimize.trial import Examples, disagreement, observe, outputs


def optimize(model: nn.Module, example_inputs: Any, *, select: Strategy = static) -> nn.Module:
    """The model with fused modules in the places where they fit.

    The result shares the very Parameters and buffers of `model` and has its state_dict keys, in their order;
    its modes, hooks and other attributes are copied. `model` is left as it was. The result is of the same
    class (a subclass of the same name where its own forward was rewritten). Both are run on `example_inputs`,
    in evaluation and in training mode, without gradients; a swap whose outputs disagree is dropped.
    `fm.plan_of(result)` lists every place, swapped or left.

    Args:
        model: any module. Not yet compiled, scripted or wrapped for distributed training: do that after.
        example_inputs: what the model is called with: a tensor, a tuple of positional arguments, or a dict of
            keyword arguments. Not changed.
        select: decides which of the places that fit are swapped; by default all of them.

    Raises:
        InputError: the model cannot be copied, or raises when called with `example_inputs`.
        BackendError: `use_backend` asked for a backend that cannot serve a fused module.
    """
    _check_model(model)
    examples = _examples(example_inputs)
    plain = shared_clone(model)
    try:
        seen = observe(plain, examples)
    except Exception as error:  # whatever the model's author raises
        raise InputError(
            f"optimize: {type(model).__name__} raises when called with example_inputs "
            f"({_one_line(error)}); pass what its forward takes"
        ) from error
    sites, left = _decide(Finder(plain, seen).rows(), select)
    sites, dropped = _keep_those_that_agree(plain, sites, examples)
    result = _swapped(model, sites)
    plan = Plan(tuple(site.place for site in sites), tuple(left + dropped), _name_of(select))
    result.__dict__[ATTRIBUTE] = plan
    return result


def _decide(rows: Iterator[Site | Place], select: Strategy) -> tuple[list[Site], list[Place]]:
    """The sites that the strategy accepts, and the rows of everything else."""
    sites: list[Site] = []
    left: list[Place] = []
    for row in rows:
        if isinstance(row, Place):
            left.append(row)
            continue
        decision = select(row.candidate)
        place = replace(row.place, reason=decision.reason, figures=decision.figures)
        if decision.is_accepted:
            sites.append(replace(row, place=place))
        else:
            left.append(replace(place, replacement=None, capture="none"))
    return sites, left


def _keep_those_that_agree(
    plain: nn.Module, sites: list[Site], examples: Examples
) -> tuple[list[Site], list[Place]]:
    """The sites that leave the model's outputs as they are; taken one by one where all together do not."""
    if not sites:
        return [], []
    expected = _expected(plain, examples)
    if _objection(plain, sites, examples, expected) is None:
        return sites, []
    kept: list[Site] = []
    dropped: list[Place] = []
    for site in sites:
        objection = _objection(plain, [*kept, site], examples, expected)
        if objection is None:
            kept.append(site)
        else:
            reason = f"dropped: with it the model disagrees ({objection})"
            dropped.append(replace(site.place, replacement=None, reason=reason, capture="none"))
    return kept, dropped


def _expected(plain: nn.Module, examples: Examples) -> dict[bool, Any]:
    """The plain model's outputs by mode; training is left out where it does not take the example inputs."""
    copy = shared_clone(plain, own_buffers=True)
    found = {False: outputs(copy, examples, training=False)}
    try:
        found[True] = outputs(copy, examples, training=True)
    except (
        Exception
    ):  # a batch of one under batch norm, targets that are missing: the author's to raise
        return found
    return found


def _objection(
    plain: nn.Module, sites: Sequence[Site], examples: Examples, expected: dict[bool, Any]
) -> str | None:
    """What is wrong with the model with these sites swapped; None where nothing is."""
    candidate = _swapped(plain, sites, own_buffers=True)
    for training, outcome in expected.items():
        try:
            found = outputs(candidate, examples, training=training)
        except BackendError:  # a backend asked for by name is not silently replaced
            raise
        except Exception as error:
            return f"it raises {_one_line(error)}"
        objection = disagreement(outcome, found)
        if objection is not None:
            return f"{objection}, in {'training' if training else 'evaluation'} mode"
    return None


def _swapped(model: nn.Module, sites: Sequence[Site], *, own_buffers: bool = False) -> nn.Module:
    """A copy of the model with these sites swapped."""
    copy = shared_clone(model, own_buffers=own_buffers)
    by_owner: dict[str, list[functional.TracedPlace]] = {}
    for site in sites:
        if isinstance(site.target, sequential.SequentialPlace):
            site.target.swap(copy)
        else:
            by_owner.setdefault(site.target.capture.owner, []).append(site.target)
    for places in by_owner.values():
        functional.swap(copy, places)
    return copy


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _name_of(select: Strategy) -> str:
    return getattr(select, "__name__", type(select).__name__)


def _examples(example_inputs: Any) -> Examples:
    if isinstance(example_inputs, torch.Tensor):
        return Examples((example_inputs,), {})
    if isinstance(example_inputs, (tuple, list)):
        return Examples(tuple(example_inputs), {})
    if isinstance(example_inputs, dict) and all(isinstance(key, str) for key in example_inputs):
        return Examples((), dict(example_inputs))
    raise InputError(
        "optimize: example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword "
        f"arguments, got {type(example_inputs).__name__}"
    )


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"optimize: model must be an nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        where = f"{name!r} of the model" if name else "the model"
        if type(module).__name__ == "OptimizedModule" or isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"optimize: {where} is compiled; optimize the plain one, then compile it"
            )
        if isinstance(module, nn.parallel.DistributedDataParallel):
            raise InputError(f"optimize: {where} is wrapped in DDP; optimize first, then wrap it")
        for key, value in (*module._parameters.items(), *module._buffers.items()):
            if value is not None and is_lazy(value):
                raise InputError(
                    f"optimize: {key!r} of {where} has no shape yet; call the model once first"
                )
