"""The short way through plain eager mode, past PyTorch's dispatcher.

A call of a Python-registered op costs tens of microseconds in the dispatcher and in the autograd wrapper of
`torch.library`, as much as a small layer's kernel. Where nothing is there to see the call (no compiler, mode,
transform, autocast, profiler or tensor subclass), the kernel is chosen and called directly, under an ordinary
`torch.autograd.Function` with the op's own `setup_context` and derivative. Everywhere else the op is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
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

    def run(ctx, *args):
        output = dispatch.run(name, "forward", *args)
        setup_context(ctx, args, output)
        return output

    # Made by its name, which graphs show: <conv_reluBackward>.
    members = {"forward": staticmethod(run), "backward": staticmethod(derivative)}
    direct: Any = type(name, (torch.autograd.Function,), members)

    def call(*args):
        if _wants_tangents():
            return _run_differentiable_forwards(name, args)
        if not _is_plain(args):
            return target(*args)
        if torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in args
        ):
            return direct.apply(*args)
        return dispatch.run(name, "forward", *args)

    return call


def backward(target: torch._ops.OpOverload) -> Callable:
    """A callable that answers as the backward op `target` does; the op itself where a graph is wanted."""
    name = target.name().removeprefix("fastmodel::").removesuffix("_backward")

    def call(*args):
        if torch.is_grad_enabled() or not _is_plain(args):
            return target(*args)
        return dispatch.run(name, "backward", *args)

    return call


def _wants_tangents() -> bool:
    """Is a forward-mode derivative (`torch.func.jvp`, `torch.autograd.forward_ad`) under way?"""
    return not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0


def _run_differentiable_forwards(name: str, args: tuple):
    """The reference, made of ops that carry tangents: kernels, and PyTorch's own custom ops, drop them."""
    if dispatch.requested() not in (None, "reference"):
        raise BackendError(
            f"{name}: backend {dispatch.requested()!r} has no forward-mode derivative; "
            "use the reference backend or automatic choice"
        )
    with dispatch.use_backend("reference"):
        return dispatch.run(name, "forward", *args)


def _is_plain(args: tuple) -> bool:
    """Is there nothing between this call and its kernel that PyTorch's dispatcher would have to see?"""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch.autograd._profiler_enabled()
        or torch.jit.is_tracing()
    ):
        return False
    for value in args:
        kind = type(value)
        if kind is Tensor or kind is Parameter:
            if value.is_neg():
                return False
        elif isinstance(value, Tensor):
            return False
    return not torch.is_autocast_enabled(args[0].device.type)
