"""Go through a model's modules: where does a fused one fit, and where not and why?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastmodel.errors import InputError
from fastmodel.optimize import alone, dynamo, functional, patterns, sequential
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.plan import Place
from fastmodel.optimize.select import Candidate
from fastmodel.optimize.traced import UntraceableError
from fastmodel.optimize.trial import Call, Examples, Observation

AnchorTarget = sequential.SequentialPlace | functional.TracedPlace | dynamo.DynamoPlace
JoinTarget = functional.JoinPlace | dynamo.DynamoJoin
Target = AnchorTarget | JoinTarget


@dataclass(frozen=True)
class Site:
    """A place that fits: what to do there, and its row of the plan."""

    target: Target
    place: Place
    candidate: Candidate
    anchor: str
    """Qualified name of the module that starts it, or whose forward the values meet in."""
    caller: str | None
    """Qualified name of the module that calls it."""
    ordinal: int
    """Which of that caller's calls it is."""

    @property
    def is_join(self) -> bool:
        """Do values meet there?"""
        return isinstance(self.target, JoinTarget)


class Finder:
    """Goes through a model's Conv2d, Linear and BatchNorm2d modules."""

    def __init__(self, model: nn.Module, seen: Observation, examples: Examples) -> None:
        self._model, self._seen, self._examples = model, seen, examples
        self._followed: dict[str, dynamo.Followed] = {}
        self._captures: dict[str, functional.Capture | UntraceableError] = {}

    def rows(self) -> Iterator[Site | Place]:
        """Every place: a site where it fits, else its row among those left."""
        for name, module in self._model.named_modules():
            if patterns.is_anchor(module):
                for row in self._rows_of(name, module):
                    if isinstance(row, Site) or patterns.is_listed(module, row.pattern):
                        yield row
        for name in self._seen.counts:
            yield from self._joined_rows(name)

    def _joined_rows(self, name: str) -> Iterator[Site | Place]:
        """The rows of the joins in one module's own forward."""
        module = self._model.get_submodule(name)
        if name not in self._captures and not _may_write_out_a_norm(module):
            return
        found: Sequence[JoinTarget]
        try:
            found = functional.find_joins(self._model, self._capture(name))
        except UntraceableError:
            found = self._followed[name].joins if name in self._followed else ()
        call = self._seen.firsts[name]
        for place in found:
            label = f"{name} ({place.pattern})" if name else place.pattern
            refusal: str | None = "its input is not known"
            dtype = _floating(call.dtype, module)
            if dtype is not None and call.device is not None:
                refusal = alone.no_kernel(place.op, dtype, call.device)
            if refusal is not None:
                yield Place(label, place.pattern, None, call.shape, refusal)
                continue
            plain = shared_clone(module, own_buffers=True)
            fused = shared_clone(self._model, own_buffers=True)
            if isinstance(place, dynamo.DynamoJoin):
                dynamo.swap(fused, [place])
            else:
                functional.swap(fused, [place])
            yield Site(
                place,
                Place(label, place.pattern, place.op, call.shape, "", _CAPTURES[type(place)]),
                Candidate(
                    label,
                    place.pattern,
                    nn.Sequential(plain),
                    fused.get_submodule(name),
                    call.shape,
                    call.dtype,
                    call.device,
                ),
                name,
                call.caller,
                0,
            )

    def _rows_of(self, name: str, anchor: nn.Module) -> Iterator[Site | Place]:
        calls = self._seen.calls.get(name, [])
        kind = type(anchor).__name__
        if patterns.is_fused(anchor):
            yield Place(name, kind, None, _shape(calls, 0), "already fused")
        elif not calls:
            yield Place(name, kind, None, None, "the example inputs do not reach it")
        elif self._is_in_sequence(name):
            found = sequential.find(self._model, name, self._seen)
            yield from self._row(name, name, calls, 0, found)
        else:
            for caller in dict.fromkeys(call.caller for call in calls):
                own = [call for call in calls if call.caller == caller]
                yield from self._traced_rows(name, anchor, caller, own)

    def _is_in_sequence(self, name: str) -> bool:
        return bool(name) and sequential.is_sequence(
            self._model.get_submodule(name.rpartition(".")[0])
        )

    def _traced_rows(
        self, name: str, anchor: nn.Module, caller: str | None, calls: list[Call]
    ) -> Iterator[Site | Place]:
        """One row for each call in the caller's forward."""
        kind = type(anchor).__name__
        if caller is None:
            yield Place(name, kind, None, _shape(calls, 0), "no ReLU after it (it is the model)")
            return
        try:
            found = functional.find(self._model, anchor, self._capture(caller))
        except UntraceableError as error:
            yield from self._followed_row(name, anchor, caller, calls, error)
            return
        if not found:
            yield Place(name, kind, None, _shape(calls, 0), "its call is not in the caller's graph")
        for ordinal, item in enumerate(found):
            label = name if len(found) == 1 else f"{name} (call {ordinal + 1})"
            yield from self._row(label, name, calls, ordinal, item)

    def _followed_row(
        self,
        name: str,
        anchor: nn.Module,
        caller: str,
        calls: list[Call],
        error: UntraceableError,
    ) -> Iterator[Site | Place]:
        """The row of a module whose caller FX does not trace: through Dynamo, if that follows it."""
        owner, kind = self._model.get_submodule(caller), type(anchor).__name__
        reason = f"{type(owner).__name__}: {error}"
        path = name.removeprefix(f"{caller}.") if caller else name
        is_own = type(owner).__module__.startswith("torch.") or "forward" in vars(owner)
        if not is_own and caller not in self._followed:
            try:
                self._followed[caller] = dynamo.explore(self._model, caller, self._examples)
            except UntraceableError as other:
                self._followed[caller] = dynamo.Followed({}, ())
                reason += f"; {other}"
        followed = self._followed.get(caller)
        found = None if followed is None else followed.anchors.get(path)
        if found is None:
            yield Place(name, kind, None, _shape(calls, 0), reason)
        else:
            yield from self._row(name, name, calls, 0, found)

    def _capture(self, caller: str) -> functional.Capture:
        if caller not in self._captures:
            try:
                self._captures[caller] = functional.capture(self._model, caller, self._seen)
            except UntraceableError as error:
                self._captures[caller] = error
        found = self._captures[caller]
        if isinstance(found, UntraceableError):
            raise found
        return found

    def _row(
        self,
        site: str,
        anchor: str,
        calls: list[Call],
        ordinal: int,
        found: AnchorTarget | patterns.Miss,
    ) -> Iterator[Site | Place]:
        shape = _shape(calls, ordinal)
        if isinstance(found, patterns.Miss):
            yield Place(site, found.pattern, None, shape, found.reason)
            return
        match = found.match
        if match.absorbs == 0:
            call = calls[min(ordinal, len(calls) - 1)]
            own = self._model.get_submodule(anchor)
            refusal = alone.refusal(own, call.shape, call.dtype, call.device)
            if refusal is not None:
                left = match.otherwise or patterns.Miss(match.pattern, refusal)
                yield Place(site, left.pattern, None, shape, left.reason)
                return
        # With buffers of its own: in trials the statistics of a batch norm move, the model's are to stay.
        own = shared_clone(self._model.get_submodule(anchor), own_buffers=True)
        plain = nn.Sequential(own, *list(match.plain)[1:])
        try:
            fused = match.make(own)
        except InputError as error:
            yield Place(site, match.pattern, None, shape, str(error))
            return
        call = calls[min(ordinal, len(calls) - 1)]
        how = _CAPTURES[type(found)]
        place = Place(site, match.pattern, type(fused).__name__, shape, "", how)
        yield Site(
            found,
            place,
            Candidate(site, match.pattern, plain, fused, shape, call.dtype, call.device),
            anchor,
            call.caller,
            ordinal,
        )
        if match.pool_left is not None:
            yield Place(site, f"{match.pattern} + MaxPool2d", None, shape, match.pool_left)


_CAPTURES = {
    sequential.SequentialPlace: "sequential",
    functional.TracedPlace: "fx",
    functional.JoinPlace: "fx",
    dynamo.DynamoPlace: "dynamo",
    dynamo.DynamoJoin: "dynamo",
}


def _floating(dtype: torch.dtype | None, module: nn.Module) -> torch.dtype | None:
    """The dtype that a module computes in: its input's, of integers (tokens) its first parameter's."""
    if dtype is not None and dtype.is_floating_point:
        return dtype
    own = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(own, None)


def _may_write_out_a_norm(module: nn.Module) -> bool:
    """Has it a weight of one dimension, and nothing else? Llama's norm, for instance."""
    weight = module._parameters.get("weight")
    is_torchs = type(module).__module__.startswith("torch.")
    is_alone = set(module._parameters) == {"weight"} and not module._modules
    return is_alone and not is_torchs and weight is not None and weight.dim() == 1


def _shape(calls: list[Call], ordinal: int) -> tuple[int, ...] | None:
    return calls[min(ordinal, len(calls) - 1)].shape if calls else None
