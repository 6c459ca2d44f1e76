"""Activation recomputation: what one pass over memory makes again is not held from forward to backward.

Between the two a training step holds what each layer's derivative reads: mostly the inputs of linear layers.
Where such an input is the output of a norm, an activation or a gate, what that was made of is held anyway,
for its own derivative. So it may go, and is made again when the linear layer's derivative asks for it.

In a block of GPT-2 under bfloat16 that is a third of what is held. A norm's or an activation's output costs a
read and a write; the products, which are nearly all of a step's time, are never repeated.

Source: Korthikanti et al., Reducing Activation Recomputation in Large Transformer Models (2022), whose
selective recomputation is of attention; that is `scaled_dot_product_attention`'s own affair here.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastmodel.ops import dispatch

_ALIKE = ("ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "ToCopyBackward0")
"""Nodes that hand on the same values, in another shape or dtype: what stands between an output and the layer
that reads it, under autocast too."""


@dataclass
class Recomputation:
    """What a region has spared."""

    spared_bytes: int = 0
    """Of tensors that were to be held for backward, and are not; what several layers read counts for each."""
    _offers: dict[tuple[Any, int], _Offer] = field(default_factory=dict)
    """By node of the graph, and which of its outputs."""


@dataclass(frozen=True)
class _Offer:
    """How an output is made again."""

    make: Callable[..., Tensor]
    sources: tuple[Tensor | None, ...]
    versions: tuple[int, ...]
    backend: str | None
    """The one that was asked for."""

    @torch.no_grad()
    def again(self) -> Tensor:
        if self.versions != _versions(self.sources):
            raise RuntimeError(
                "recompute_activations: what an activation is to be made of again has been changed in place "
                "since forward; change a copy, or leave that layer out of the region"
            )
        with dispatch.use_backend(self.backend):
            return self.make(*self.sources)


@dataclass(frozen=True)
class _Recipe:
    """In the place of a saved tensor: the same values, in its shape and dtype."""

    offer: _Offer
    shape: torch.Size
    dtype: torch.dtype


@dataclass(frozen=True)
class _Held:
    """A saved tensor, and its version: with hooks in place autograd looks no more whether it was changed."""

    tensor: Tensor
    version: int


_region: contextvars.ContextVar[Recomputation | None] = contextvars.ContextVar(
    "recomputation", default=None
)


@contextlib.contextmanager
def recompute_activations() -> Iterator[Recomputation]:
    """Do not hold for backward what one pass over memory makes again, in the forward inside this block.

    That is the outputs of fastmodel's norms, gates, GELU and SiLU, where a layer would hold its input for its
    weight's gradient. Less memory for a little time. Gradients are those without it: to the bit for norms
    and gates; GELU and SiLU are taken of their rounded argument, which in 16 bits moves a weight's gradient
    by a rounding.

        with fm.recompute_activations():
            loss = loss_fn(model(inputs), targets)
        loss.backward()

    PyTorch's own modules are readers, not makers: swap them by `fm.optimize`, or take fm.nn's. Of nested
    regions, and of others that hook into saved tensors (`torch.utils.checkpoint`), the innermost holds. What
    `torch.compile` has compiled keeps what its partitioner chose.

    Yields:
        `Recomputation`, whose `spared_bytes` grows during forward.

    Raises:
        RuntimeError: (in backward) a tensor that is needed was changed in place since forward.
    """
    region = Recomputation()

    def pack(tensor: Tensor) -> _Recipe | _Held:
        offer = _offer_of(region, tensor)
        if offer is None:
            # Detached: an output that its own node holds would keep the two alive.
            return _Held(tensor.detach(), tensor._version)
        region.spared_bytes += tensor.numel() * tensor.element_size()
        return _Recipe(offer, tensor.shape, tensor.dtype)

    token = _region.set(region)
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
            yield region
    finally:
        _region.reset(token)
        region._offers.clear()


def _offer_of(region: Recomputation, tensor: Tensor) -> _Offer | None:
    node, number = tensor.grad_fn, tensor.output_nr
    while node is not None and (node, number) not in region._offers and node.name() in _ALIKE:
        node, number = node.next_functions[0]
    return region._offers.get((node, number))


def _unpack(packed: _Recipe | _Held) -> Tensor:
    if isinstance(packed, _Recipe):
        made = packed.offer.again()
        return made.to(packed.dtype).reshape(packed.shape)
    if packed.tensor._version != packed.version:
        raise RuntimeError(
            "one of the tensors needed for gradient computation has been modified by an inplace operation: "
            f"it is at version {packed.tensor._version}, expected version {packed.version}"
        )
    return packed.tensor


def is_on() -> bool:
    """Is this call inside a region, where an op is to `offer` its output?"""
    return not torch.compiler.is_compiling() and _region.get() is not None


def offer(out: Tensor, make: Callable[..., Tensor], *sources: Tensor | None) -> None:
    """Inside a region, let the layers that read `out` make it again as make(*sources).

    Args:
        out: an op's output, as it goes on.
        make: gives out's values; called without autograd.
        sources: what is held for the op's own derivative anyway.
    """
    region = _region.get()
    if region is None or out.grad_fn is None:
        return
    region._offers[out.grad_fn, out.output_nr] = _Offer(
        make, sources, _versions(sources), dispatch.requested()
    )


def _versions(tensors: tuple[Tensor | None, ...]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tensors if tensor is not None)
