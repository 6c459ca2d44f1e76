"""Runs of a model on the example inputs: what calls what, and do two models agree?

Every run is on a copy whose buffers are its own, without gradients, and leaves the random state as it was.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.patterns import is_anchor


@dataclass(frozen=True)
class Examples:
    """The arguments of one call of the model."""

    args: tuple
    kwargs: dict[str, Any]

    def fresh(self) -> Examples:
        """The same with every tensor copied, for a model that writes to its inputs."""
        return self.map(torch.clone)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Examples:
        """The same with a function applied to every tensor."""
        return Examples(
            *pytree.tree_map_only(torch.Tensor, function, (self.args, dict(self.kwargs)))
        )

    def devices(self) -> set[torch.device]:
        leaves = pytree.tree_leaves((self.args, self.kwargs))
        return {leaf.device for leaf in leaves if isinstance(leaf, torch.Tensor)}


@dataclass(frozen=True)
class Call:
    """One call of an anchor."""

    caller: str | None
    """Qualified name of the module whose forward called it; None where it is the model itself."""
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    device: torch.device | None


@dataclass
class Observation:
    """What happened in one run, by qualified name."""

    calls: dict[str, list[Call]] = field(default_factory=dict)
    """Of every anchor that was reached."""
    counts: dict[str, int] = field(default_factory=dict)
    """How often each module was called."""
    arguments: dict[str, tuple[tuple, dict[str, Any]]] = field(default_factory=dict)
    """Of each module's first call, an empty tensor in the place of each tensor."""
    firsts: dict[str, Call] = field(default_factory=dict)
    """Each module's first call."""


def observe(model: nn.Module, examples: Examples) -> Observation:
    """Run a copy of the model in evaluation mode and write down who calls whom."""
    copy = shared_clone(model, own_buffers=True)
    seen = Observation()
    stack: list[str] = []

    def enter(name, module, args, kwargs):
        x = next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)
        facts = (None, None, None) if x is None else (tuple(x.shape), x.dtype, x.device)
        call = Call(stack[-1] if stack else None, *facts)
        seen.firsts.setdefault(name, call)
        if is_anchor(module):
            seen.calls.setdefault(name, []).append(call)
        seen.counts[name] = seen.counts.get(name, 0) + 1
        seen.arguments.setdefault(name, (tuple(map(_brief, args)), _brief_values(kwargs)))
        stack.append(name)

    for name, module in copy.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: enter(name, module, args, kwargs),
            with_kwargs=True,
        )
        module.register_forward_hook(lambda *_: stack.pop() and None)
    run_model(copy, examples, training=False)
    return seen


def _brief(value: Any) -> Any:
    return torch.empty(0) if isinstance(value, torch.Tensor) else value


def _brief_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _brief(value) for name, value in values.items()}


def inputs_of(
    model: nn.Module, examples: Examples, names: set[str]
) -> dict[str, list[tuple[str | None, torch.Tensor]]]:
    """The inputs of these modules, in the order of their calls, each with its caller.

    Each is a copy in the layout it came in, and a leaf that requires a gradient where the model asks for one.
    """
    copy = shared_clone(model, own_buffers=True)
    found: dict[str, list[tuple[str | None, torch.Tensor]]] = {}
    stack: list[str] = []

    def enter(name, module, args, kwargs):
        if name in names:
            x = next(a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor))
            leaf = x.detach().clone().requires_grad_(x.requires_grad)
            found.setdefault(name, []).append((stack[-1] if stack else None, leaf))
        stack.append(name)

    for name, module in copy.named_modules():
        module.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: enter(name, module, args, kwargs),
            with_kwargs=True,
        )
        module.register_forward_hook(lambda *_: stack.pop() and None)
    run_model(copy, examples, training=False, with_gradients=True)
    return found


def outputs(model: nn.Module, examples: Examples, *, training: bool) -> Any:
    """What a model returns in one of its modes; dropout is left out, so that layouts cannot move its mask."""
    with without_dropout():
        return run_model(model, examples, training=training)


def disagreement(expected: Any, found: Any) -> str | None:
    """Where two outputs differ beyond rounding, in words; None where they agree.

    The bound is half of the dtype's digits, relative to the largest value of each tensor.
    """
    wanted, expected_spec = pytree.tree_flatten(expected)
    given, found_spec = pytree.tree_flatten(found)
    if expected_spec != found_spec:
        return "its output has another structure"
    for a, b in zip(wanted, given, strict=True):
        if type(a) is not type(b):
            return f"it returns {type(b).__name__} instead of {type(a).__name__}"
        if not isinstance(a, torch.Tensor):
            continue
        if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
            return "its output has another shape, dtype or device"
        if a.device.type == "meta":
            continue
        if a.is_complex():
            a, b = torch.view_as_real(a.resolve_conj()), torch.view_as_real(b.resolve_conj())
        if a.is_floating_point():
            bound = torch.finfo(a.dtype).eps ** 0.5
            scale = a[a.isfinite()].abs().max().item() if a.isfinite().any() else 0.0
            if not torch.allclose(a, b, rtol=0.0, atol=bound * scale, equal_nan=True):
                return f"its output differs by more than {bound:.1g} of the largest value"
        elif not torch.equal(a, b):
            return f"its {str(a.dtype).removeprefix('torch.')} output differs"
    return None


def run_model(
    model: nn.Module, examples: Examples, *, training: bool, with_gradients: bool = False
) -> Any:
    model.train(training)
    fresh = examples.fresh()
    with random_state_kept(examples), torch.set_grad_enabled(with_gradients):
        return model(*fresh.args, **fresh.kwargs)


@contextlib.contextmanager
def random_state_kept(examples: Examples) -> Iterator[None]:
    """PyTorch's, Python's and NumPy's generators as they were, after the block."""
    numpy = sys.modules.get("numpy")
    python_state = random.getstate()
    numpy_state = numpy.random.get_state() if numpy else None
    gpus = [device for device in examples.devices() if device.type == "cuda"]
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)


_DROPOUTS = {
    F.dropout,
    F.dropout1d,
    F.dropout2d,
    F.dropout3d,
    F.alpha_dropout,
    F.feature_alpha_dropout,
    torch.dropout,
    torch.dropout_,
}


class without_dropout(TorchFunctionMode):
    """Every dropout returns its input."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        if func is torch.ops.fastmodel.linear_relu_dropout.default:
            return func(*args[:-1], 0.0)
        return func(*args, **(kwargs or {}))
