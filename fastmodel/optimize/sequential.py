"""Places in nn.Sequential: neighbours are matched, and swapped in the tree.

The fused module takes the first one's key; the ReLU and pool that it absorbs become nn.Identity under
theirs, so that names, indexes, slices and state_dict keys stay. A plain nn.Sequential becomes
fm.nn.Sequential, which runs fused neighbours as one node of the graph.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from fastmodel import nn as fm_nn
from fastmodel.optimize import patterns
from fastmodel.optimize.swapped_out import CHAINED, PLAIN, bare_copy
from fastmodel.optimize.trial import Observation


@dataclass(frozen=True)
class SequentialPlace:
    """A run of neighbours in one container."""

    container: str
    keys: tuple[str, ...]
    match: patterns.Match

    def swap(self, model: nn.Module) -> None:
        """Put the fused module into this copy of the model."""
        container = model.get_submodule(self.container)
        first, *absorbed = self.keys
        record = container.__dict__.setdefault(PLAIN, {})
        record.update((key, bare_copy(container.get_submodule(key))) for key in self.keys)
        container._modules[first] = self.match.make(container.get_submodule(first))
        for key in absorbed:
            training = container.get_submodule(key).training
            container._modules[key] = nn.Identity().train(training)
        if type(container) is nn.Sequential:
            container.__class__ = fm_nn.Sequential
            container.__dict__[CHAINED] = True


def is_sequence(module: nn.Module) -> bool:
    """Does this container call its children one after the other, and nothing else?"""
    forwards = (nn.Sequential.forward, fm_nn.Sequential.forward)
    return isinstance(module, nn.Sequential) and type(module).forward in forwards


def _chain_from(container: nn.Module, key: str) -> tuple[list[str], list[patterns.Step]]:
    """The keys from `key` on, at most three, and the steps that follow it."""
    keys = list(container._modules)
    keys = keys[keys.index(key) :][:3]
    return keys, [patterns.step_of_module(container.get_submodule(k)) for k in keys[1:]]


def find(model: nn.Module, site: str, seen: Observation) -> SequentialPlace | patterns.Miss:
    """The place that starts at an anchor called by an nn.Sequential, or why there is none."""
    container_name, _, key = site.rpartition(".")
    container = model.get_submodule(container_name)
    keys, steps = _chain_from(container, key)
    anchor = container.get_submodule(key)
    callers = {call.caller for call in seen.calls[site]}
    if callers != {container_name}:
        reason = "it is called by others than the nn.Sequential that holds it"
        return patterns.Miss(patterns.describe(anchor, steps), reason)
    if len(seen.calls[site]) != seen.counts[container_name]:
        return patterns.Miss(patterns.describe(anchor, steps), "it is called at several places")
    match = patterns.match(anchor, steps)
    if isinstance(match, patterns.Miss):
        return match
    return SequentialPlace(container_name, tuple(keys[: 1 + match.absorbs]), match)
