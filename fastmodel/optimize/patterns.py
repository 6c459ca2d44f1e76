"""What can be fused: a Conv2d, Linear or BatchNorm2d, and the activation and max-pool or dropout after it.

A Linear or a norm that nothing is fused with may have a twin of its own (`alone.py`).

Sequences and graphs are both read as an anchor (the first of these) and the steps after it; `match` knows
neither. max and ReLU commute, in value and in gradient (a window whose maximum is not positive passes none
either way; among positive values ReLU keeps order and ties), so pool before ReLU is the same fused module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

import fastmodel.nn as fused_nn
from fastmodel.optimize import alone

# Activations that only a Linear takes in: the label of their step, the module, the fused module.
LINEAR_ACTIVATIONS: dict[str, tuple[type[nn.Module], Any]] = {
    "Sigmoid": (nn.Sigmoid, fused_nn.LinearSigmoid),
    "Tanh": (nn.Tanh, fused_nn.LinearTanh),
    "GELU": (nn.GELU, fused_nn.LinearGELU),
    "SiLU": (nn.SiLU, fused_nn.LinearSiLU),
}

FUSED = (
    fused_nn.BatchNormReLU2d,
    fused_nn.LinearReLU,
    fused_nn.LinearReLUDropout,
    *(fused for _, fused in LINEAR_ACTIVATIONS.values()),
    fused_nn.ConvReLU2d,
    fused_nn.ConvReLUMaxPool2d,
    *alone.FUSED,
)


@dataclass(frozen=True)
class Step:
    """What is done next to the anchor's output."""

    kind: str
    """ "relu", "activation" (of LINEAR_ACTIVATIONS), "pool", "dropout", "fork" (the value has more readers
    than one, or none) or "other"."""
    label: str
    refusal: str | None = None
    """Why this activation, pool or dropout cannot be fused."""
    pool: nn.MaxPool2d | None = None
    dropout: nn.Dropout | None = None
    plain: nn.Module | None = None
    """The step as PyTorch's module, in place where the model does it in place; None for others than these."""


@dataclass(frozen=True)
class Match:
    """A fused module that fits, and how many steps it absorbs."""

    pattern: str
    absorbs: int
    make: Callable[[Any], nn.Module]
    """Builds the fused module over the Parameters of the anchor that it is given."""
    plain: nn.Sequential
    """The anchor and what is absorbed, as the model has it."""
    pool_left: str | None = None
    """Why a pool that follows stays, where it does."""
    otherwise: Miss | None = None
    """Of a twin: what is said where it would be no faster."""


@dataclass(frozen=True)
class Miss:
    """No fused module fits, and why."""

    pattern: str
    reason: str


# Each with the buffers that it has.
_ANCHOR_BUFFERS: dict[type[nn.Module], set[str]] = {
    nn.Conv2d: set(),
    nn.LayerNorm: set(),
    nn.Linear: set(),
    nn.RMSNorm: set(),
    nn.BatchNorm2d: {"running_mean", "running_var", "num_batches_tracked"},
}
_ANCHORS = tuple(_ANCHOR_BUFFERS)


def is_anchor(module: nn.Module) -> bool:
    """Could this module be the start of a fused one (subclasses are looked at, to say why not)?"""
    return isinstance(module, _ANCHORS)


def is_listed(anchor: nn.Module, pattern: str) -> bool:
    """Is a place where nothing is fused worth a row? A batch norm's only where a ReLU follows at once."""
    return not isinstance(anchor, nn.BatchNorm2d) or "ReLU" in pattern


def is_fused(module: nn.Module) -> bool:
    """Is it one of the modules that are swapped in?"""
    return isinstance(module, FUSED)


def has_hooks(module: nn.Module) -> bool:
    """Does anybody listen to this module's calls?"""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def anchor_refusal(anchor: nn.Module) -> str | None:
    """Why this anchor cannot be fused with anything; None where it can."""
    if nn.utils.parametrize.is_parametrized(anchor):
        return "its weight is parametrized"
    if type(anchor) not in _ANCHORS:
        return f"{type(anchor).__name__} is a subclass, its forward may differ"
    has_own_buffers = set(anchor._buffers) == _ANCHOR_BUFFERS[type(anchor)]
    own = {"weight"} if type(anchor) is nn.RMSNorm else {"weight", "bias"}
    if set(anchor._parameters) != own or not has_own_buffers or anchor._modules:
        return "it has state beyond weight and bias (weight norm, pruning or the like)"
    return "it has hooks" if has_hooks(anchor) else None


def pool_refusal(pool: nn.MaxPool2d) -> str | None:
    """Why this pool cannot be fused; None where it can."""
    if pool.return_indices:
        return "the pool returns indices"
    if pool.ceil_mode:
        return "the pool has ceil_mode"
    if pool.dilation not in (1, (1, 1), [1, 1]):
        return f"the pool has dilation {pool.dilation}"
    return None


def step_of_module(module: nn.Module) -> Step:
    """A module as a step."""
    label = type(module).__name__
    hooked = f"the {label} has hooks" if has_hooks(module) else None
    if type(module) is nn.ReLU:
        return relu_step(module.inplace, hooked)
    for name, (plain, _) in LINEAR_ACTIVATIONS.items():
        if type(module) is plain:
            is_inplace = getattr(module, "inplace", False)
            return activation_step(name, getattr(module, "approximate", "none"), is_inplace, hooked)
    twin = _twin_activation(module)
    if twin is not None:
        return activation_step(twin, refusal=hooked)
    if type(module) is nn.MaxPool2d:
        return Step("pool", "MaxPool2d", hooked or pool_refusal(module), module, plain=module)
    if type(module) is nn.Dropout:
        return dropout_step(module.p, module.inplace, module.training, hooked)
    return Step("other", label)


def _twin_activation(module: nn.Module) -> str | None:
    """The activation that a module of transformers' own is, by name."""
    kind = type(module)
    if not kind.__module__.startswith("transformers.activations"):
        return None
    if kind.__name__ == "GELUActivation" and getattr(module, "act", None) is F.gelu:
        return "GELU"
    return "SiLU" if kind.__name__ == "SiLUActivation" else None


def relu_step(is_inplace: bool = False, refusal: str | None = None) -> Step:
    """A ReLU as a step."""
    return Step("relu", "ReLU", refusal, plain=nn.ReLU(is_inplace))


def activation_step(
    name: str,
    approximate: str = "none",
    is_inplace: bool = False,
    refusal: str | None = None,
) -> Step:
    """One of LINEAR_ACTIVATIONS as a step; `approximate` is GELU's, `is_inplace` SiLU's."""
    if approximate != "none":
        refusal = refusal or f"the {name} is approximated by {approximate}"
    plain = LINEAR_ACTIVATIONS[name][0]
    return Step("activation", name, refusal, plain=plain(is_inplace) if is_inplace else plain())


def dropout_step(p: float, is_inplace: bool, training: bool, refusal: str | None = None) -> Step:
    """A dropout as a step, in the mode that it is called in."""
    dropout = nn.Dropout(p, is_inplace).train(training)
    return Step("dropout", "Dropout", refusal, dropout=dropout, plain=dropout)


def without_dropout(steps: Sequence[Step]) -> list[Step]:
    """The steps with dropout as what no fused module takes in."""
    return [step if step.dropout is None else Step("other", step.label) for step in steps]


def describe(anchor: nn.Module, steps: Sequence[Step]) -> str:
    """The chain in words, as far as its ReLU: "Conv2d + BatchNorm2d + ReLU"; alone where it has none.

    A Linear's own activation is named likewise.
    """
    if _is_linear_with_activation(anchor, steps):
        return f"{type(anchor).__name__} + {steps[0].label}"
    # What a batch norm takes in follows at once.
    labels, steps = [type(anchor).__name__], steps[: 1 if isinstance(anchor, nn.BatchNorm2d) else 2]
    if any(step.kind == "relu" for step in steps):
        while steps and steps[0].kind != "fork":
            labels.append(steps[0].label)
            steps = [] if steps[0].kind == "relu" else steps[1:]
    return " + ".join(labels)


def match(
    anchor: nn.Module, steps: Sequence[Step], *, training: bool | None = None
) -> Match | Miss:
    """The fused module for an anchor and what follows it, or the reason why there is none.

    Args:
        anchor: a Conv2d, Linear or BatchNorm2d.
        steps: what follows, each the only reader of the one before; two are enough.
        training: the mode in which they follow; by default the anchor's.
    """
    if isinstance(anchor, alone.NORMS):
        refusal = anchor_refusal(anchor)
        return Miss(type(anchor).__name__, refusal) if refusal is not None else _twin(anchor)
    is_activated = _is_linear_with_activation(anchor, steps)
    step_refusal = steps[0].refusal if is_activated else _relu_refusal(anchor, steps)
    refusal = anchor_refusal(anchor) or step_refusal
    if refusal is not None:
        miss = Miss(describe(anchor, steps), refusal)
        return (
            _twin(anchor, miss)
            if type(anchor) is nn.Linear and not anchor_refusal(anchor)
            else miss
        )
    if is_activated:
        _, fused = LINEAR_ACTIVATIONS[steps[0].label]
        return Match(describe(anchor, steps), 1, fused.from_torch, _plain(anchor, steps[:1]))
    if type(anchor) is nn.BatchNorm2d:
        make = fused_nn.BatchNormReLU2d.from_torch
        return Match(describe(anchor, steps), 1, make, _plain(anchor, steps[:1]))
    if type(anchor) is nn.Linear:
        return _linear(anchor, steps, anchor.training if training is None else training)
    return _conv(anchor, steps)


def _twin(anchor: nn.Module, otherwise: Miss | None = None) -> Match:
    """What may stand in the place of the anchor alone."""
    kind = type(anchor)
    return Match(kind.__name__, 0, alone.TWINS[kind].make, _plain(anchor, ()), otherwise=otherwise)


def _plain(anchor: nn.Module, steps: Sequence[Step]) -> nn.Sequential:
    """The anchor and these steps as PyTorch runs them."""
    return nn.Sequential(anchor, *(step.plain for step in steps if step.plain is not None))


def _is_linear_with_activation(anchor: nn.Module, steps: Sequence[Step]) -> bool:
    return isinstance(anchor, nn.Linear) and bool(steps) and steps[0].kind == "activation"


def _relu_refusal(anchor: nn.Module, steps: Sequence[Step]) -> str | None:
    """Why no ReLU can be taken in: none there, out of reach, or refused."""
    first, second = ([*steps, None, None])[:2]
    if first is None:
        return "no ReLU after it"
    if first.kind == "fork":
        return f"its output has {first.label}"
    if first.kind == "relu":
        return first.refusal
    if second is None or second.kind != "relu":
        return f"no ReLU after it (next: {first.label})"
    if first.kind == "pool" and isinstance(anchor, nn.Conv2d):
        return first.refusal or second.refusal
    name = "batch norm" if first.label.startswith(("BatchNorm", "batch_norm")) else first.label
    return f"{name} between it and the ReLU"


def _linear(anchor: nn.Linear, steps: Sequence[Step], training: bool) -> Match:
    dropout = steps[1].dropout if len(steps) > 1 and steps[1].refusal is None else None
    # A dropout whose mode is not the layer's (Monte Carlo dropout) is left to itself.
    if dropout is None or dropout.training != training:
        return Match(
            "Linear + ReLU",
            1,
            fused_nn.LinearReLU.from_torch,
            _plain(anchor, steps[:1]),
        )
    return Match(
        "Linear + ReLU + Dropout",
        2,
        lambda anchor: fused_nn.LinearReLUDropout.from_torch(anchor, dropout).train(training),
        _plain(anchor, steps[:2]),
    )


def _conv(anchor: nn.Module, steps: Sequence[Step]) -> Match:
    pool = next((step for step in steps[:2] if step.kind == "pool"), None)
    if pool is None or pool.pool is None or pool.refusal is not None:
        return Match(
            "Conv2d + ReLU",
            1,
            fused_nn.ConvReLU2d.from_torch,
            _plain(anchor, steps[:1]),
            None if pool is None else pool.refusal,
        )
    window = pool.pool
    return Match(
        describe(anchor, [*steps[:2]]) + ("" if pool is steps[0] else " + MaxPool2d"),
        2,
        lambda anchor: fused_nn.ConvReLUMaxPool2d.from_torch(anchor, window),
        _plain(anchor, steps[:2]),
    )
