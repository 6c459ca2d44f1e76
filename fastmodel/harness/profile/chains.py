"""What follows each convolution, linear layer and loss of a step, and what all of it took, there and back.

The forward operators come in the order in which they ran; each one's node of the backward pass carries the
same sequence number. So a chain's time is measured whole, whoever wrote it as modules or as functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fastmodel.harness.profile.trace import NODE, Event, Trace, walk

_ANCHORS = {
    "aten::conv2d": "conv",
    "aten::convolution": "conv",
    "aten::linear": "linear",
    "aten::cross_entropy_loss": "cross_entropy",
    "aten::mse_loss": "mse_loss",
}
_FOLLOWERS = {
    "relu": ("aten::relu", "aten::relu_", "aten::clamp_min"),
    "pool": ("aten::max_pool2d",),
    "dropout": ("aten::dropout", "aten::dropout_"),
    "activation": (
        "aten::gelu",
        "aten::silu",
        "aten::silu_",
        "aten::sigmoid",
        "aten::sigmoid_",
        "aten::tanh",
        "aten::tanh_",
    ),
}


@dataclass(frozen=True)
class Chain:
    """One call of a convolution, linear layer or loss, and the followers right after it."""

    anchor: str
    shapes: tuple[tuple[int, ...], ...]
    """Of the anchor's tensors."""
    times_us: dict[str, float] = field(default_factory=dict)
    """By "anchor" and follower, forward and backward together."""

    def time_us(self, followers: Sequence[str]) -> float:
        """Of the anchor and these followers."""
        return sum(self.times_us.get(name, 0.0) for name in ("anchor", *followers))

    def has(self, followers: Sequence[str]) -> bool:
        """Do all of these follow?"""
        return all(name in self.times_us for name in followers)


def chains(trace: Trace) -> list[Chain]:
    """All of the active steps, in order."""
    backward_us = _backward_times(trace)
    found: list[Chain] = []

    def visit(event: Event) -> bool:
        if event.name.startswith(NODE):
            return False
        anchor = _ANCHORS.get(event.name)
        follower = next((kind for kind, names in _FOLLOWERS.items() if event.name in names), None)
        if anchor is not None:
            tensors = tuple(shape for shape in event.shapes if shape)
            found.append(Chain(anchor, tensors, {"anchor": _there_and_back(event, backward_us)}))
        elif follower is not None and found and follower not in found[-1].times_us:
            found[-1].times_us[follower] = _there_and_back(event, backward_us)
        # Wrappers are looked into: "aten::to" and the like around an operator that counts.
        return anchor is None and follower is None

    main = trace.main_thread
    walk([root for root in trace.roots if root.thread == main], visit)
    return found


def _backward_times(trace: Trace) -> dict[int, float]:
    """Time of the node of backward by sequence number."""
    return {
        event.sequence: event.time_us
        for event in trace.events
        if event.name.startswith(NODE) and event.sequence >= 0
    }


def _there_and_back(event: Event, backward_us: dict[int, float]) -> float:
    sequences: set[int] = set()

    def collect(inner: Event) -> bool:
        sequences.add(inner.sequence)
        return True

    walk([event], collect)
    return event.time_us + sum(backward_us.get(number, 0.0) for number in sequences)
