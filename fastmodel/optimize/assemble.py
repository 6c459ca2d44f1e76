"""Put chosen places into a copy of a model."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastmodel.optimize import dynamo, functional, sequential
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.search import Site


def assemble(model: nn.Module, sites: Sequence[Site], *, own_buffers: bool = False) -> nn.Module:
    """A copy of the model over its own Parameters, with these places swapped.

    Args:
        model: left as it is.
        sites: places found in it, or in another copy of the same model.
        own_buffers: copy the buffers too.
    """
    copy = shared_clone(model, own_buffers=own_buffers)
    by_owner: dict[str, list[functional.TracedPlace | functional.JoinPlace]] = {}
    followed: list[dynamo.DynamoPlace | dynamo.DynamoJoin] = []
    for site in sites:
        if isinstance(site.target, sequential.SequentialPlace):
            site.target.swap(copy)
        elif isinstance(site.target, (dynamo.DynamoPlace, dynamo.DynamoJoin)):
            followed.append(site.target)
        else:
            by_owner.setdefault(site.target.capture.owner, []).append(site.target)
    for places in by_owner.values():
        functional.swap(copy, places)
    dynamo.swap(copy, followed)
    return copy
