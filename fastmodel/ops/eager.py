"""The short way through plain eager mode, past PyTorch's dispatcher.

A call of a Python-registered op costs tens of microseconds in the dispatcher and in the autograd wrapper of
`torch.library`, as much as a small layer's kernel. Where nothing is there to see the call (no compiler, mode,
transform, autocast, profiler or tensor subclass), the kernel is chosen and called directly, under an ordinary
`torch.autograd.Function` with the op's own `setup_context` and derivative. Everywhere else the op is called.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
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
        leading = args[:tensors]
        if not _is_plain(leading):
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


def backward(target: torch._ops.OpOverload) -> Callable:
    """A callable that answers as the backward op `target` does; the op itself where a graph is wanted."""
    name = target.name().removeprefix("fastmodel::").removesuffix("_backward")
    tensors = _tensor_count(target)

    def call(*args):
        if torch.is_grad_enabled() or not _is_plain(args[:tensors]):
            return target(*args)
        # Of a backward's tensors, only the incoming gradient can be many (`is_grads_batched`).
        if _is_legacy_batchedtensor(args[0]):
            return target(*args)
        return dispatch.run(name, "backward", *args)

    return call


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


def _is_plain(tensors: tuple) -> bool:
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
