"""The short way through plain eager mode, past PyTorch's dispatcher.

A call of a Python-registered op costs tens of microseconds in the dispatcher and in the autograd wrapper of
`torch.library`, as much as a small layer's kernel. Where nothing is there to see the call (no compiler, mode,
transform, autocast, profiler or tensor subclass), the kernel is chosen and called directly, under an ordinary
`torch.autograd.Function` with the op's own `setup_context` and derivative. Everywhere else the op is called.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _get_tracing_state,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch._C._autograd import _profiler_enabled
from torch._C._functorch import is_functorch_wrapped_tensor as _is_functorch_wrapped_tensor
from torch._C._functorch import is_legacy_batchedtensor as _is_legacy_batchedtensor
from torch._C._functorch import peek_interpreter_stack as _peek_interpreter_stack
from torch.nn import Parameter

from fastmodel.errors import BackendError
from fastmodel.ops import dispatch


def forward(
    target: torch._ops.OpOverload, setup_context: Callable, derivative: Callable
) -> Callable:
    """A callable that answers as the forward op `target` does.

    Args:
        target: the op.
        setup_context, derivative: what was attached to it with `register.autograd`.
    """
    name = target.name().removeprefix("fastmodel::")
    tensors = _tensor_count(target)

    def run(ctx, *args):
        args = (*args[:tensors], *itertools.chain(*args[tensors:]))
        output = dispatch.run(name, "forward", *args)
        setup_context(ctx, args, output)
        return output

    record = functools.partial(_record, name, target, setup_context, derivative)

    def run_backward(ctx, *grads):
        found = derivative(ctx, *grads)
        return found if len(found) == tensors else (*found[:tensors], None)

    # Made by its name, which graphs show: <conv_reluBackward>. The options travel as one argument: every
    # argument has its cost in PyTorch's wrapping.
    members = {"forward": staticmethod(run), "backward": staticmethod(run_backward)}
    direct: Any = type(name, (torch.autograd.Function,), members)
    # Beneath `Function.apply`, whose Python part serves the transforms that a plain call has none of.
    apply = super(torch.autograd.Function, direct).apply

    def call(*args):
        tape = _active_tape()
        if tape is not None:
            return record(tape, args)
        leading = args[:tensors]
        if not is_plain(leading):
            if _wants_tangents() or _is_exporting():
                return _run_differentiable_forwards(name, args)
            return target(*args)
        if torch.is_grad_enabled():
            for value in leading:
                if value is not None and value.requires_grad:
                    options = args[tensors:]
                    return apply(*leading, *([options] if options else []))
        return dispatch.run(name, "forward", *args)

    return call


@dataclass
class Call:
    """One call of an op that left its derivative to the one who taped it."""

    target: Callable
    """The op, differentiable."""
    args: tuple
    """As the op was called."""
    output: Any
    context: Context
    derivative: Callable
    """(context, gradient of each output) to the gradient of each argument."""


class Context:
    """What an op's `setup_context` and derivative see in the place of autograd's own context."""

    saved_tensors: Sequence = ()
    needs_input_grad: Sequence[bool] = ()

    def restored(self, saved_tensors: Sequence, needs_input_grad: Sequence[bool]) -> Context:
        """A copy for one backward pass."""
        copy = Context()
        vars(copy).update(vars(self))
        copy.saved_tensors, copy.needs_input_grad = saved_tensors, needs_input_grad
        return copy

    def save_for_backward(self, *tensors) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors) -> None:
        pass

    def set_materialize_grads(self, value: bool) -> None:
        pass


# The calls of the node of a whole chain that is being run (ops/chain.py); None outside of any.
_tape: contextvars.ContextVar[list[Call] | None] = contextvars.ContextVar("tape", default=None)


@contextlib.contextmanager
def taped() -> Iterator[list[Call]]:
    """Run fused ops without autograd and list the forward calls; the caller has seen that all is plain."""
    calls: list[Call] = []
    token = _tape.set(calls)
    try:
        yield calls
    finally:
        _tape.reset(token)


def wants_derivative() -> bool:
    """Will somebody ask for the derivative of an op called now?"""
    return torch.is_grad_enabled() or _active_tape() is not None


def _active_tape() -> list[Call] | None:
    return None if torch.compiler.is_compiling() else _tape.get()


def _record(
    name: str,
    target: torch._ops.OpOverload,
    setup_context: Callable,
    derivative: Callable,
    tape: list[Call],
    args: tuple,
):
    output = dispatch.run(name, "forward", *args)
    context = Context()
    setup_context(context, args, output)
    tape.append(Call(target, args, output, context, derivative))
    return output


def backward(target: torch._ops.OpOverload) -> Callable:
    """A callable that answers as the backward op `target` does; the op itself where a graph is wanted."""
    name = target.name().removeprefix("fastmodel::").removesuffix("_backward")
    tensors = _tensor_count(target)

    def call(*args):
        if _active_tape() is not None:
            return dispatch.run(name, "backward", *args)
        if torch.is_grad_enabled() or not is_plain(args[:tensors]) or is_batched(args[0]):
            return target(*args)
        return dispatch.run(name, "backward", *args)

    return call


def is_batched(grad: Tensor) -> bool:
    """Is an incoming gradient many (`is_grads_batched`)? Of a backward's tensors, only it can be."""
    return _is_legacy_batchedtensor(grad)


def _tensor_count(target: torch._ops.OpOverload) -> int:
    """How many of the op's arguments are tensors or None; they come first."""
    is_tensor = ["Tensor" in str(argument.type) for argument in target._schema.arguments]
    count = sum(is_tensor)
    assert all(is_tensor[:count]), f"{target}: tensors must come before other arguments"
    return count


def _wants_tangents() -> bool:
    """Is a forward-mode derivative (`torch.func.jvp`, `torch.autograd.forward_ad`) under way?"""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0


def _is_exporting() -> bool:
    """Is this call for a program that is to run where fastmodel is not, of PyTorch's own ops alone?"""
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _run_differentiable_forwards(name: str, args: tuple):
    """The reference, made of ops that carry tangents: kernels, and PyTorch's own custom ops, drop them."""
    if dispatch.requested() not in (None, "reference"):
        raise BackendError(
            f"{name}: backend {dispatch.requested()!r} has no forward-mode derivative; "
            "use the reference backend or automatic choice"
        )
    with dispatch.use_backend("reference"):
        return dispatch.run(name, "forward", *args)


def is_plain(tensors: tuple) -> bool:
    """Is there nothing between this call and its kernel that PyTorch's dispatcher would have to see?"""
    if (
        torch.compiler.is_compiling()
        or torch.autograd.forward_ad._current_level >= 0
        or _len_torch_dispatch_stack() > 0
        or _is_torch_function_mode_enabled()
        or _peek_interpreter_stack() is not None
        or _profiler_enabled()
        or _get_tracing_state() is not None
    ):
        return False
    for tensor in tensors:
        kind = type(tensor)
        if kind is Tensor or kind is Parameter:
            if tensor.is_neg() or _is_functorch_wrapped_tensor(tensor):
                return False
        elif tensor is not None:
            return False
    return not torch.is_autocast_enabled(tensors[0].device.type)
