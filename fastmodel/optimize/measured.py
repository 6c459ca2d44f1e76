"""The measured selection: candidates alone, then the whole step, and levers taken out until it wins.

1. Every place, the loss and the optimizer are tried alone: numbers against float64, then a race. With the
   images as they come and, where that lever can be pulled, channels_last: kernels differ in both.
2. The step is built from what won, once for each layout, and the builds are ranked; beside them builds with
   the places that lost little alone, for neighbours that run as one node of the graph cost less each.
3. The best is raced against the plain step in fresh windows. It is kept if the lower end of its interval is
   above the gain that was asked for; else the third of the levers that gained least alone is taken out, and
   so on. If none is left, the model comes back as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel.errors import InputError
from fastmodel.optimize.assemble import assemble
from fastmodel.optimize.budget import Budget
from fastmodel.optimize.calls import UNLIKE, caught
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.evidence import Measurement
from fastmodel.optimize.levers import Built, Lever, Subject, pull
from fastmodel.optimize.measure import LEAST_PAIRS, WARM_RUNS, race, ranking
from fastmodel.optimize.plan import Contribution, Place, Pulled
from fastmodel.optimize.search import Site
from fastmodel.optimize.select import Candidate, Decision
from fastmodel.optimize.step import Training, differentiable, optimizer_over, step_of
from fastmodel.optimize.trial import disagreement, inputs_of, outputs, random_state_kept
from fastmodel.optimize.trials import Trials
from fastmodel.progress import Progress
from fastmodel.timing import now_s

CHANNELS_LAST = "channels_last"
_WHOLE = ("autocast", "compile", "cuda_graph")
"""Levers that only the whole step can tell about, beside channels_last."""
_SHARE_OF_TRIALS = 0.5
"""Of the budget, the most that candidates alone may take."""
_SAVED_BY_NEIGHBOURS_S = 1e-4
"""The most that a module gains by being one node with its neighbours: its way through autograd and back."""


@dataclass(frozen=True)
class Request:
    """What a measured selection is asked for."""

    levers: tuple[Lever, ...]
    min_gain: float
    budget_s: float
    explains: bool
    progress: Progress

    @property
    def gain(self) -> float:
        """The ratio that a lever, and the whole, must certainly be above."""
        return 1.0 + self.min_gain


@dataclass(frozen=True)
class Choice:
    """A set of levers for the whole step."""

    sites: tuple[Site, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Is nothing changed?"""
        return not self.sites and not self.names

    def __str__(self) -> str:
        parts = [f"{len(self.sites)} sites"] if self.sites else []
        return " + ".join([*parts, *self.names]) or "nothing"


@dataclass(frozen=True)
class Outcome:
    """What a measured selection came to."""

    choice: Choice
    left: tuple[Place, ...]
    levers: tuple[Pulled, ...]
    whole: Measurement | None
    verdict: str
    contributions: tuple[Contribution, ...]


class Selection:
    """One run of the measured selection over a model; neither model nor optimizer is changed."""

    def __init__(self, subject: Subject, sites: Sequence[Site], request: Request) -> None:
        self._subject, self._sites, self._request = subject, list(sites), request
        self._budget = Budget(request.budget_s)
        self._sandbox = _sandbox(subject.model, subject.training)
        self._decided: dict[str, Decision] = {}
        self._site_decisions: dict[bool, dict[str, Decision]] = {}
        self._least_s = 0.0
        self._refusals = {lever.name: lever.refusal(subject) for lever in request.levers}

    def run(self) -> Outcome:
        """Select.

        Raises:
            InputError: the budget is too small for the fewest pairs of the step, or no output has a gradient.
        """
        with random_state_kept(self._subject.examples), torch.enable_grad():
            self._check_budget()
            self._check_numbers()
            self._try_alone()
            choice, whole, verdict = self._settle(self._choices())
            contributions = self._explain(choice, whole)
        return Outcome(
            choice, self._left(choice), self._pulled(choice), whole, verdict, contributions
        )

    def _check_budget(self) -> None:
        """Time a plain step once warm: the whole race needs the fewest pairs of it."""
        self._request.progress.stage("one plain step", 1)
        try:
            step = self._step(Choice())
            step()
        except InputError:
            raise
        except Exception as error:  # whatever the model's or the loss's author raises
            lines = str(error).strip().splitlines() or [""]
            raise InputError(
                f"optimize: a plain training step raises {type(error).__name__}: {lines[0][:160]}; "
                "pass inputs and targets that it takes"
            ) from error
        start_s = now_s(self._subject.device)
        step()
        step_time_s = now_s(self._subject.device) - start_s
        self._least_s = least_s = 2 * (LEAST_PAIRS + WARM_RUNS) * step_time_s
        if self._budget.budget_s < least_s:
            raise InputError(
                f"optimize: budget_s={self._budget.budget_s:g} is too small: a training step takes "
                f"{step_time_s:.3g} s, and {LEAST_PAIRS} pairs of it are the least; pass at least "
                f"{2 * least_s:.2g}"
            )

    def _check_numbers(self) -> None:
        """Drop the levers of the whole model with which its outputs are others."""
        for name in (CHANNELS_LAST, *_WHOLE):
            if not self._is_offered(name):
                continue
            expected, found = (
                outputs(
                    pull(Built(assemble(self._sandbox.model, ()), Training()), names).model,
                    self._subject.examples,
                    training=False,
                )
                for names in ((), (name,))
            )
            if name == "autocast":  # asked for by name: its numbers are held to its own precision
                expected, found = map(_in_bfloat16, (expected, found))
            objection = disagreement(expected, found)
            if objection is not None:
                self._refusals[name] = f"dropped: with it the model disagrees ({objection})"

    def _is_offered(self, name: str) -> bool:
        return name in self._refusals and self._refusals[name] is None

    def _try_alone(self) -> None:
        subject, request = self._subject, self._request
        share_s = min(_SHARE_OF_TRIALS * request.budget_s, self._budget.left_s() - self._least_s)
        trials = Trials(self._budget.part(share_s), request.gain, subject.device)
        sites = self._sites if self._is_offered("sites") else []
        request.progress.stage("trying candidates alone", len(sites) + 2)
        self._try_sites(trials, sites)
        if self._is_offered("loss"):
            output, targets = self._output(), subject.training.targets
            loss = self._sandbox.training.loss
            assert isinstance(loss, nn.Module)
            self._decided["loss"] = trials.of_loss(loss, output, targets)
        request.progress.advance()
        if self._is_offered("optimizer"):
            with _learning(subject.training.optimizer, self._sandbox.training.optimizer) as made:
                self._decided["optimizer"] = trials.of_optimizer(made)
        request.progress.advance()

    def _try_sites(self, trials: Trials, sites: Sequence[Site]) -> None:
        with_last = self._is_offered(CHANNELS_LAST)
        self._site_decisions = {is_last: {} for is_last in [False, True][: 1 + with_last]}
        if not sites:
            return
        subject = self._subject
        layers = {site.anchor for site in sites if not site.is_join}
        inputs = inputs_of(subject.model, subject.examples, layers) if layers else {}
        joined = {site.anchor for site in sites if site.is_join}
        called = caught(subject.model, subject.examples, joined) if joined else {}
        for site in sites:
            if not site.is_join:
                found = trials.of_place(_with_input(site, inputs), with_last)
            elif site.anchor in called:
                candidate = replace(site.candidate, call=called[site.anchor])
                found = trials.of_place(candidate, with_last)
            else:
                found = dict.fromkeys(self._site_decisions, Decision(False, UNLIKE))
            for is_last, decision in found.items():
                self._site_decisions[is_last][site.place.site] = decision
            self._request.progress.advance()

    def _choices(self) -> list[Choice]:
        """Builds to rank: what won alone in each layout, and the levers that only the whole can judge."""
        alone = tuple(name for name in ("loss", "optimizer") if self._accepts(name))
        found = []
        for is_last, decisions in self._site_decisions.items():
            sites = tuple(s for s in self._sites if _won(decisions, s))
            names = ((CHANNELS_LAST,) if is_last else ()) + alone
            found.append(Choice(sites, names))
            for name in _WHOLE:
                if self._is_offered(name):
                    found.append(Choice(sites, (*names, name)))
            more = tuple(s for s in self._sites if _won(decisions, s) or _may_win(decisions, s))
            if len(more) > max(1, len(sites)):
                found.append(Choice(more, names))
        return [choice for choice in found if not choice.is_plain]

    def _accepts(self, name: str) -> bool:
        return name in self._decided and self._decided[name].is_accepted

    def _settle(self, choices: list[Choice]) -> tuple[Choice, Measurement | None, str]:
        """The best build that certainly beats the plain step."""
        request, plain = self._request, Choice()
        if not choices:
            return plain, None, "nothing won alone: the model is returned as it was"
        request.progress.stage("timing the whole step", len(choices) + 1)
        arms = {str(i): self._step(choice) for i, choice in enumerate(choices)}
        if len(arms) > 1:
            part_s = min(self._budget.left_s() / 3, self._budget.left_s() - self._least_s)
            order = ranking(arms, self._budget.part(part_s), self._subject.device)
            choices = [choices[int(name)] for name in order]
        last: Measurement | None = None
        queue = [*choices[:1], *self._thinner(choices[0]), *choices[1:]]
        for choice in queue:
            part = self._budget.part(max(self._budget.left_s() / 2, self._least_s))
            found = race(
                self._step(plain), self._step(choice), part, request.gain, self._subject.device
            )
            request.progress.advance()
            if found is None:
                break
            last = found
            if found.low > request.gain:
                return choice, found, f"the whole step: {choice}, {found} times as fast"
        else:
            return plain, last, f"no build of the whole step wins ({last}): returned as it was"
        if last is None:
            return plain, None, "the budget was spent before the whole step: returned as it was"
        return (
            plain,
            last,
            f"no certain gain of the whole step in time ({last}): returned as it was",
        )

    def _thinner(self, choice: Choice) -> list[Choice]:
        """The choice with levers taken out, a third at a time, those that gained least alone first."""
        found = []
        while (count := len(choice.sites) + len(choice.names)) > 1:
            gains = {s.place.site: self._ratio(choice, s) for s in choice.sites}
            for name in choice.names:
                decision = self._decided.get(name)
                known = None if decision is None else decision.measurement
                gains[f"lever {name}"] = 1.0 if known is None else known.ratio
            weakest = sorted(gains, key=gains.__getitem__)[: max(1, count // 3)]
            if f"lever {CHANNELS_LAST}" in weakest:
                # What won in one layout has not been shown to win in the other.
                names = tuple(name for name in choice.names if name != CHANNELS_LAST)
                kept = self._site_decisions.get(False, {})
                choice = Choice(tuple(s for s in self._sites if _won(kept, s)), names)
            else:
                choice = Choice(
                    tuple(s for s in choice.sites if s.place.site not in weakest),
                    tuple(name for name in choice.names if f"lever {name}" not in weakest),
                )
            if not choice.is_plain:
                found.append(choice)
        return found

    def _ratio(self, choice: Choice, site: Site) -> float:
        decision = self._site_decisions[CHANNELS_LAST in choice.names][site.place.site]
        return 1.0 if decision.measurement is None else decision.measurement.ratio

    def _explain(self, choice: Choice, whole: Measurement | None) -> tuple[Contribution, ...]:
        """Each lever by leave-one-out: the step without it against the step with all."""
        if not self._request.explains or choice.is_plain or whole is None:
            return ()
        without = [
            (
                f"site {s.place.site}",
                replace(choice, sites=tuple(o for o in choice.sites if o is not s)),
            )
            for s in choice.sites
        ]
        without += [
            (name, replace(choice, names=tuple(o for o in choice.names if o != name)))
            for name in choice.names
        ]
        self._request.progress.stage("leaving one lever out", len(without))
        found = []
        full = self._step(choice)
        for index, (name, other) in enumerate(without):
            share_s = self._budget.left_s() / (len(without) - index)
            part = self._budget.part(max(share_s, self._least_s))
            measured = race(self._step(other), full, part, 1.0, self._subject.device)
            self._request.progress.advance()
            if measured is not None:
                found.append(Contribution(name, measured))
        return tuple(found)

    def _step(self, choice: Choice) -> Callable[[], object]:
        """One training step of the sandbox with these levers pulled."""
        model = assemble(self._sandbox.model, choice.sites)
        built = pull(Built(model, self._sandbox.training), choice.names)
        return step_of(built.model, self._subject.examples, built.training)

    def _output(self) -> torch.Tensor:
        examples = self._subject.examples.fresh()
        output = self._sandbox.model(*examples.args, **examples.kwargs)
        return differentiable(output)[0].detach()

    def _left(self, choice: Choice) -> tuple[Place, ...]:
        chosen = {site.place.site for site in choice.sites}
        is_last = CHANNELS_LAST in choice.names
        rows = []
        for site in self._sites:
            if site.place.site not in chosen:
                rows.append(self._row(site, is_last, is_swapped=False))
        return tuple(rows)

    def swapped(self, choice: Choice) -> tuple[Site, ...]:
        """The chosen sites with the evidence in their rows."""
        is_last = CHANNELS_LAST in choice.names
        return tuple(
            replace(site, place=self._row(site, is_last, is_swapped=True)) for site in choice.sites
        )

    def _row(self, site: Site, is_last: bool, *, is_swapped: bool) -> Place:
        decision = self._site_decisions.get(is_last, {}).get(site.place.site)
        if decision is None:
            refusal = self._refusals.get("sites") or "the lever 'sites' was not asked for"
            return replace(site.place, replacement=None, capture="none", reason=refusal)
        place = replace(
            site.place,
            reason=decision.reason,
            measurement=decision.measurement,
            verification=decision.verification,
        )
        if is_swapped and decision.is_accepted:
            return place
        if is_swapped:
            return replace(place, reason=f"wins beside its neighbours ({decision.reason} alone)")
        if decision.is_accepted:
            reason = (
                f"taken out again: the whole step does not gain by it ({decision.reason} alone)"
            )
            place = replace(place, reason=reason)
        return replace(place, replacement=None, capture="none")

    def _pulled(self, choice: Choice) -> tuple[Pulled, ...]:
        rows = []
        for lever in self._request.levers:
            if lever.name == "sites":
                continue
            decision = self._decided.get(lever.name)
            refusal = self._refusals[lever.name]
            is_pulled = lever.name in choice.names
            if refusal is not None:
                reason = refusal
            elif decision is not None and (is_pulled or not decision.is_accepted):
                reason = decision.reason
            elif is_pulled:
                reason = "in the fastest build of the whole step"
            else:
                reason = "the whole step does not gain by it"
            rows.append(
                Pulled(
                    lever.name,
                    is_pulled,
                    reason,
                    None if decision is None else decision.measurement,
                    None if decision is None else decision.verification,
                )
            )
        return tuple(rows)


def _sandbox(model: nn.Module, training: Training) -> Built:
    """The step over copies of Parameters, buffers and optimizer; the learning rate is 0 there."""
    loss, optimizer = training.loss, training.optimizer
    # One walk over both: a head that the loss has may be tied to the model's embedding.
    both = nn.ModuleList([model, loss] if isinstance(loss, nn.Module) else [model])
    copies = cast(nn.ModuleList, shared_clone(both, own_buffers=True, own_parameters=True))
    twins = dict(zip(both.parameters(), copies.parameters(), strict=True))
    if optimizer is not None:
        optimizer = optimizer_over(optimizer, twins, lr=0.0)  # type: ignore[arg-type]
    if isinstance(loss, nn.Module):
        loss = copies[1]
    return Built(copies[0], Training(loss, optimizer, training.targets))


@contextlib.contextmanager
def _learning(
    given: torch.optim.Optimizer | None, made: torch.optim.Optimizer | None
) -> Iterator[torch.optim.Optimizer]:
    """The sandbox's optimizer with the learning rates of the one that was given."""
    assert given is not None and made is not None
    still = [group["lr"] for group in made.param_groups]
    for own, group in zip(given.param_groups, made.param_groups, strict=True):
        group["lr"] = own["lr"]
    try:
        yield made
    finally:
        for group, lr in zip(made.param_groups, still, strict=True):
            group["lr"] = lr


def _in_bfloat16(output: Any) -> Any:
    def rounded(value: torch.Tensor) -> torch.Tensor:
        return value.bfloat16() if value.is_floating_point() else value

    return pytree.tree_map_only(torch.Tensor, rounded, output)


def _with_input(site: Site, inputs: dict[str, list[tuple[str | None, torch.Tensor]]]) -> Candidate:
    own = [x for caller, x in inputs[site.anchor] if caller == site.caller]
    return replace(site.candidate, x=own[min(site.ordinal, len(own) - 1)])


def _won(decisions: dict[str, Decision], site: Site) -> bool:
    decision = decisions.get(site.place.site)
    return decision is not None and decision.is_accepted


def _may_win(decisions: dict[str, Decision], site: Site) -> bool:
    """Did it lose so little alone that neighbours may make up for it?"""
    decision = decisions.get(site.place.site)
    if decision is None or decision.measurement is None or site.place.capture == "dynamo":
        return False
    lost_s = decision.measurement.time_s - decision.measurement.torch_time_s
    return lost_s < _SAVED_BY_NEIGHBOURS_S
