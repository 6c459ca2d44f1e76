"""Advice from trials: a change is made on copies of the script's own step, and measured in turns."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from fastmodel.harness.profile import trials
from fastmodel.harness.profile.candidates import FUSED
from fastmodel.harness.profile.facts import FASTMODEL, Facts, make, ms
from fastmodel.harness.profile.whole_step import whole_step
from fastmodel.harness.profile_records import Advice
from fastmodel.optimize.levers import LOSSES

WHOLE_STEP = f"{FASTMODEL}-step"


def whole(facts: Facts) -> Iterator[Advice]:
    """All that fastmodel would replace in the step, at once; without a gain where the trial shows none."""
    if facts.trace.has_device or not facts.roots:
        return
    root = facts.roots[0]
    try:
        found = whole_step(root, facts.losses, facts.optimizers)
    except Exception as error:  # whatever the model's author raises
        facts.missing[WHOLE_STEP] = f"no trial: {' '.join(str(error).split())[:200]}"
        return
    if found.tried.ratio.low <= 1:
        facts.missing[WHOLE_STEP] = f"tried, and no faster: {_words(found.tried)}"
    kind = type(root.model).__name__
    replaced = list(found.replaced)
    parts, action = ["forward"], ["model = fm.optimize(model, example_inputs)"]
    includes = [f"{op} sites" for op, _ in FUSED.values()]
    if found.has_loss:
        parts.append("loss")
        includes += ["cross_entropy", "mse_loss"]
        (loss,) = facts.losses
        if type(loss.module) in LOSSES:
            replaced.append(type(loss.module).__name__)
            action.append(f"fm.nn.{type(loss.module).__name__}()")
    parts.append("backward")
    if found.optimizer is not None:
        name = type(found.optimizer).__name__
        parts.append("optimizer")
        replaced.append(name)
        includes.append(f"optimizer {name}")
        action.append(f"fm.optim.{name}(...)")
    rest_s = facts.step_s - found.tried.before_s
    rest = f"; the other {ms(rest_s)} of the step stay as they are" if rest_s > 0 else ""
    yield make(
        facts,
        WHOLE_STEP,
        f"The step with all that fastmodel replaces: {', '.join(replaced)}",
        gain_s=found.tried.saved_s(facts.step_s) if found.tried.ratio.low > 1 else 0.0,
        target="training step",
        action=", ".join(action),
        how=(
            f"{', '.join(parts[:-1])} and {parts[-1]} of {kind} on the script's own batch, its numbers held"
            f" against float64 first, in turns: {_words(found.tried)}{rest}"
        ),
        evidence="tried in this run",
        includes=includes,
    )


def _words(found: trials.Tried) -> str:
    ratio = found.ratio
    return (
        f"{ms(found.before_s)} before, {ms(found.after_s)} after,"
        f" {ratio.value:.2f} times as fast [{ratio.low:.2f}, {ratio.high:.2f}]"
    )


def tried(facts: Facts) -> Iterator[Advice]:
    """channels_last and autocast, each tried on the script's own model and batch."""
    has_convolutions = any(chain.anchor == "conv" for chain in facts.chains)
    for root in facts.roots[:1]:
        kind = type(root.model).__name__
        weights = [p for p in root.model.parameters() if p.dim() == 4]
        is_contiguous = any(p.is_contiguous() and p[0].numel() > 9 for p in weights)
        choices = []
        if has_convolutions and is_contiguous:
            choices.append(
                (
                    "channels-last",
                    "The convolutions in channels_last",
                    "model.to(memory_format=torch.channels_last), the inputs likewise",
                    trials.channels_last,
                )
            )
        if all(p.dtype == torch.float32 for p in root.model.parameters()) and not _is_autocast(
            facts
        ):
            choices.append(
                (
                    "autocast",
                    "Low precision by autocast",
                    "with torch.autocast(device, torch.bfloat16): around forward and loss;"
                    " check the accuracy",
                    trials.autocast,
                )
            )
        for name, title, action, trial in choices:
            try:
                found = trial(root)
            except Exception as error:  # whatever the model's author raises
                facts.missing[name] = f"no trial: {' '.join(str(error).split())[:200]}"
                continue
            if found.ratio.low <= 1:
                continue
            yield make(
                facts,
                name,
                title,
                gain_s=found.saved_s(facts.step_s),
                target="layout and precision",
                action=action,
                how=(
                    f"forward and backward of {kind} on the script's own batch, in turns:"
                    f" {_words(found)}"
                ),
                evidence="tried in this run",
            )


def _is_autocast(facts: Facts) -> bool:
    """Do convolutions or linear layers convert their arguments?"""
    converted = [e.parent for e in facts.trace.events if e.name == "aten::_to_copy" and e.parent]
    callers = [e.parent for e in converted if e.name == "aten::to" and e.parent]
    return any(e.name in ("aten::conv2d", "aten::linear") for e in callers)
