"""The short way through plain eager mode, past PyTorch's dispatcher.

A call of a Python-registered op costs tens of microseconds in the dispatcher and in the autograd wrapper of
`torch.library`, as much as a small layer's kernel. Where nothing is there to see the call (no compiler, mode,
transform, autocast, profiler or tensor subclass), the kernel is chosen and called directly, under an ordinary
`torch.autograd.Function` with the op's own `setup_context` and derivative. Everywhere else the op is called.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

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

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *args):
            output = dispatch.run(name, "forward", *args)
            setup_context(ctx, args, output)
            return output

        @staticmethod
        def backward(ctx, *grads):
            return derivative(ctx, *grads)

    Direct.__name__ = name

    def call(*args):
        if not _is_plain(args):
            return target(*args)
        if torch.is_grad_enabled() and any(
            isinstance(value, Tensor) and value.requires_grad for value in args
        ):
            return Direct.apply(*args)
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
