"""`fm.optimize`: find the places, let a strategy choose, swap, check, and leave the plan."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from fastmodel.capture import CapturedStep, capture_step
from fastmodel.errors import BackendError, InputError
from fastmodel.optimize import levers as lever_table
from fastmodel.optimize.assemble import assemble
from fastmodel.optimize.calls import UNLIKE, Call, caught
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.fingerprint import fingerprint_of
from fastmodel.optimize.levers import Built, Subject, pull
from fastmodel.optimize.measured import Request, Selection
from fastmodel.optimize.plan import ATTRIBUTE, Place, Plan
from fastmodel.optimize.search import Finder, Site
from fastmodel.optimize.select import Candidate, Decision, Strategy, static
from fastmodel.optimize.step import Training
from fastmodel.optimize.trial import Examples, disagreement, observe, outputs
from fastmodel.optimize.verify import verify
from fastmodel.progress import Progress, SilentProgress, progress_for

MEASURED, STATIC = "measured", "static"
MIN_GAIN = 0.02
BUDGET_S = 60.0


class Step(NamedTuple):
    """The parts of a training step."""

    model: nn.Module
    loss: Any
    optimizer: torch.optim.Optimizer

    def capture(self, example_batch: tuple[Any, Any]) -> CapturedStep:
        """`fm.capture_step` of these parts: the step where the plan has pulled `cuda_graph`."""
        return capture_step(self.model, self.loss, self.optimizer, example_batch)


def optimize(
    model: nn.Module,
    example_inputs: Any,
    *,
    select: str | Strategy = MEASURED,
    plan: Plan | str | Path | None = None,
    levers: Sequence[str] = lever_table.DEFAULT,
    min_gain: float = MIN_GAIN,
    budget_s: float = BUDGET_S,
    explain: bool = False,
    progress: Progress | None = None,
) -> nn.Module:
    """The model with what was measured to be faster here; never slower, and the same numbers.

    The result shares the very Parameters and buffers of `model` and has its state_dict keys, in their order;
    its modes, hooks and other attributes are copied. `model` is left as it was. The result is of the same
    class (a subclass of the same name where its own forward was rewritten). Every candidate is held against
    float64, forward and every gradient, and timed in forward and backward at the inputs that the model gives
    it; the whole is timed again, and comes back as it was if it does not win. `fm.plan_of(result)` is the
    receipt. Deterministic in what it computes, not in what it selects: that depends on times.

    Args:
        model: any module. Not yet compiled, scripted or wrapped for distributed training: do that after.
        example_inputs: what the model is called with: a tensor, a tuple of positional arguments, or a dict of
            keyword arguments. Not changed. Of the size that training has: what wins depends on it.
        select: "measured", or "static" to swap all places that fit, by rule and without a measurement, or a
            function that decides about each `Candidate`.
        plan: an earlier plan or the path of one, to be applied without measuring. Where machine or versions
            differ from the plan's, the selection is measured anew, and the new plan says so.
        levers: names of what may be changed; see `docs/optimize.md`. By default what keeps the numbers and
            the shape of the program.
        min_gain: what a lever, and the whole, must certainly gain: 0.02 for 2 %.
        budget_s: the most seconds to take, about; the measured selection ends well before where cases are
            clear.
        explain: measure the contribution of each lever by leave-one-out, in what is left of the budget.
        progress: where to report to; by default a bar on standard error, if that is a terminal.

    Returns:
        The optimized model, in the mode of `model`.

    Raises:
        InputError: the model cannot be copied, raises when called with `example_inputs`, lies on another
            device, or has no gradients to measure; `budget_s` is too small; a name among `levers` is unknown;
            `plan` cannot be read or is of another model or other inputs.
        BackendError: `use_backend` asked for a backend that cannot serve a fused module.
    """
    options = _Options(select, plan, levers, min_gain, budget_s, explain, progress)
    return _optimize(model, example_inputs, Training(), options).model


def optimize_step(
    model: nn.Module,
    loss: Any,
    optimizer: torch.optim.Optimizer,
    example_inputs: Any,
    targets: Any,
    *,
    plan: Plan | str | Path | None = None,
    levers: Sequence[str] = lever_table.DEFAULT,
    min_gain: float = MIN_GAIN,
    budget_s: float = BUDGET_S,
    explain: bool = False,
    progress: Progress | None = None,
) -> Step:
    """`optimize` for a whole training step: the loss and the optimizer are levers too.

    Nothing that is given is changed. What is returned shares the Parameters, and the optimizer's state where
    it has one: go on with the returned ones alone. Make learning-rate schedulers over the returned optimizer.

    Args:
        model: as `optimize` takes it.
        loss: called as loss(output, targets); returns a scalar.
        optimizer: over the model's Parameters.
        example_inputs: as `optimize` takes them.
        targets: what `loss` is called with, for the example inputs.
        plan: as `optimize` takes it, as are all that follow.
        levers: names.
        min_gain: a share.
        budget_s: seconds.
        explain: measure contributions.
        progress: where to report to.

    Returns:
        `Step(model, loss, optimizer)`; each is the given one where nothing won.

    Raises:
        InputError: as `optimize`.
        BackendError: as `optimize`.
    """
    options = _Options(MEASURED, plan, levers, min_gain, budget_s, explain, progress)
    built = _optimize(model, example_inputs, Training(loss, optimizer, targets), options)
    assert built.training.optimizer is not None
    return Step(built.model, built.training.loss, built.training.optimizer)


class _Options(NamedTuple):
    select: str | Strategy
    plan: Plan | str | Path | None
    levers: Sequence[str]
    min_gain: float
    budget_s: float
    explain: bool
    progress: Progress | None


def _optimize(
    model: nn.Module, example_inputs: Any, training: Training, options: _Options
) -> Built:
    _check_options(options)
    _check_model(model)
    examples = _examples(example_inputs)
    device = _check_devices(model, examples)
    given = Plan.load(options.plan) if isinstance(options.plan, (str, Path)) else options.plan
    plain = shared_clone(model)
    try:
        seen = observe(plain, examples)
    except Exception as error:  # whatever the model's author raises
        raise InputError(
            f"optimize: {type(model).__name__} raises when called with example_inputs "
            f"({_one_line(error)}); pass what its forward takes"
        ) from error
    subject = Subject(plain, examples, training, seen, device)
    rows = list(Finder(plain, seen, examples).rows())
    note = ""
    if given is not None:
        changes = _check_plan(given, plain, examples)
        if not changes:
            sites, left, plan = _applied(given, rows, subject)
            return _finished(model, sites, left, plan, subject)
        note = f"measured anew, the plan that was given is of another machine: {'; '.join(changes)}"
    if options.select != MEASURED:
        strategy = static if options.select == STATIC else options.select
        sites, left = _decide(rows, strategy, subject)  # type: ignore[arg-type]
        return _finished(model, sites, left, Plan((), (), _name_of(strategy)), subject)
    return _measured(model, rows, subject, options, note)


def _measured(
    model: nn.Module, rows: list[Site | Place], subject: Subject, options: _Options, note: str
) -> Built:
    _check_gradients(model)
    sites = [row for row in rows if isinstance(row, Site)]
    left = [row for row in rows if isinstance(row, Place)]
    sites, dropped = _keep_those_that_agree(subject.model, sites, subject.examples)
    with _progress(options.progress) as progress:
        request = Request(
            lever_table.checked(options.levers),
            options.min_gain,
            options.budget_s,
            options.explain,
            progress,
        )
        selection = Selection(subject, sites, request)
        outcome = selection.run()
        progress.say(outcome.verdict)
    plan = Plan(
        (),
        (),
        MEASURED,
        outcome.levers,
        outcome.whole,
        "; ".join(filter(None, [outcome.verdict, note])),
        outcome.contributions,
    )
    chosen = list(selection.swapped(outcome.choice))
    return _finished(model, chosen, [*left, *dropped, *outcome.left], plan, subject)


def _applied(
    plan: Plan, rows: list[Site | Place], subject: Subject
) -> tuple[list[Site], list[Place], Plan]:
    """The sites that a plan names, with its rows."""
    found = {(row.place.site, row.place.replacement): row for row in rows if isinstance(row, Site)}
    sites = []
    for place in plan.swaps:
        site = found.get((place.site, place.replacement))
        if site is None:
            raise InputError(
                f"optimize: the plan swaps {place.site!r} for {place.replacement}, which does not fit "
                "there now (a hook, another mode or another version); run fm.optimize without plan="
            )
        sites.append(replace(site, place=place))
    known = {lever.name for lever in lever_table.LEVERS}
    for name in plan.pulled:
        refusal = lever_table.BY_NAME[name].refusal(subject) if name in known else "it is unknown"
        if refusal is not None:
            raise InputError(f"optimize: the plan's lever {name!r} cannot be pulled: {refusal}")
    return sites, list(plan.left), plan


def _finished(
    model: nn.Module, sites: list[Site], left: list[Place], plan: Plan, subject: Subject
) -> Built:
    """The model with these sites and the plan's levers, checked as a whole, and its receipt."""
    sites, dropped = _keep_those_that_agree(subject.model, sites, subject.examples)
    built = pull(Built(assemble(model, sites), subject.training), plan.pulled)
    built.model.__dict__[ATTRIBUTE] = replace(
        plan,
        swaps=tuple(site.place for site in sites),
        left=(*left, *dropped),
        fingerprint=fingerprint_of(subject.model, subject.examples),
    )
    return built


def _decide(
    rows: Sequence[Site | Place], select: Strategy, subject: Subject
) -> tuple[list[Site], list[Place]]:
    """The sites that the strategy accepts, and the rows of everything else."""
    sites: list[Site] = []
    left: list[Place] = []
    joined = {row.anchor for row in rows if isinstance(row, Site) and row.is_join}
    called = caught(subject.model, subject.examples, joined) if joined else {}
    for row in rows:
        if isinstance(row, Place):
            left.append(row)
            continue
        decision = select(row.candidate)
        if decision.is_accepted and row.is_join:
            decision = _held_to_float64(decision, row.candidate, called.get(row.anchor))
        place = replace(
            row.place,
            reason=decision.reason,
            measurement=decision.measurement,
            verification=decision.verification,
        )
        if decision.is_accepted:
            sites.append(replace(row, place=place))
        else:
            left.append(replace(place, replacement=None, capture="none"))
    return sites, left


def _held_to_float64(decision: Decision, candidate: Candidate, call: Call | None) -> Decision:
    """A strategy's word on a place where values meet, once outputs and gradients are as they are to be."""
    if call is None:
        return Decision(False, UNLIKE)
    try:
        found = verify(replace(candidate, call=call))
    except BackendError:  # a backend asked for by name is not silently replaced
        raise
    except Exception as error:  # what the author's forward raises in float64 among them
        return Decision(False, f"not held against float64: it raises {_one_line(error)}")
    if not found.passed:
        return Decision(False, f"failed its float64 check: {found}", None, found)
    return replace(decision, verification=found)


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
    candidate = assemble(plain, sites, own_buffers=True)
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


@contextlib.contextmanager
def _progress(given: Progress | None) -> Iterator[Progress]:
    """The progress that was given, which its owner opens and closes, or one of our own."""
    if given is not None:
        yield given
        return
    with progress_for(sys.stderr) if sys.stderr.isatty() else SilentProgress() as own:
        yield own


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__


def _name_of(select: object) -> str:
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


def _check_options(options: _Options) -> None:
    if isinstance(options.select, str) and options.select not in (MEASURED, STATIC):
        raise InputError(
            f"optimize: select is {options.select!r}; pass 'measured', 'static' or a function"
        )
    for name, value in (("budget_s", options.budget_s), ("min_gain", options.min_gain)):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float("inf") or (name == "budget_s" and value == 0):
            raise InputError(f"optimize: {name} is {value!r}; pass a number above 0")
    lever_table.checked(options.levers)
    if options.plan is not None and not isinstance(options.plan, (Plan, str, Path)):
        raise InputError(
            f"optimize: plan must be a Plan or the path of one, got {type(options.plan).__name__}"
        )


def _check_devices(model: nn.Module, examples: Examples) -> torch.device:
    """The device of it all."""
    own = {t.device for t in (*model.parameters(), *model.buffers())}
    given = examples.devices()
    if own and given and not own & given:
        raise InputError(
            f"optimize: the model is on {_listed(own)}, example_inputs are on {_listed(given)}; "
            "move one to the other"
        )
    return next(iter(own or given), torch.device("cpu"))


def _listed(devices: set[torch.device]) -> str:
    return ", ".join(sorted(map(str, devices)))


def _check_gradients(model: nn.Module) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError(
            "optimize: no parameter of the model requires a gradient, so there is no training step to "
            "measure; unfreeze one, or pass select='static'"
        )


def _check_plan(plan: Plan, model: nn.Module, examples: Examples) -> list[str]:
    """How the machine differs from the plan's.

    Raises:
        InputError: the plan is of another model or of other inputs.
    """
    now = fingerprint_of(model, examples)
    was = plan.fingerprint
    if was is None:
        raise InputError("optimize: the plan has no fingerprint; run fm.optimize again")
    if was.model != now.model:
        raise InputError(
            f"optimize: the plan is of another model (its hash is {was.model}, this one's {now.model}); "
            "run fm.optimize without plan="
        )
    if was.inputs != now.inputs:
        raise InputError(
            f"optimize: the plan is for inputs {was.inputs}, these are {now.inputs}; "
            "run fm.optimize without plan="
        )
    return was.changes(now)


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
