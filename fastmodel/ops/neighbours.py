"""Modules called one after the other, with fused neighbours as one node of autograd's graph.

Which neighbours may be one, and in which calls, is said here alone: `fm.nn.Sequential` and the forwards that
`fm.optimize` has captured both come through `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastmodel.ops import chain, eager, recompute
from fastmodel.ops.conv_relu.module import ConvReLU2d
from fastmodel.ops.conv_relu_maxpool.module import ConvReLUMaxPool2d
from fastmodel.ops.linear.module import Linear
from fastmodel.ops.linear_gelu.module import LinearGELU
from fastmodel.ops.linear_relu.module import LinearReLU
from fastmodel.ops.linear_relu_dropout.module import LinearReLUDropout
from fastmodel.ops.linear_sigmoid.module import LinearSigmoid
from fastmodel.ops.linear_silu.module import LinearSiLU
from fastmodel.ops.linear_tanh.module import LinearTanh

PLANS = "_fastmodel_plans"
"""Where a keeper holds what its chains have learnt."""

_CONV = ("stride", "padding", "dilation", "groups")
_POOL = ("pool_kernel_size", "pool_stride", "pool_padding")

# Of each fused module, what its call depends on beside tensors.
_FUSED: dict[type[nn.Module], Callable[[nn.Module], object]] = {
    ConvReLU2d: attrgetter(*_CONV),
    ConvReLUMaxPool2d: attrgetter(*_CONV, *_POOL),
    Linear: type,
    LinearGELU: type,
    LinearReLU: type,
    LinearReLUDropout: attrgetter("p", "training"),
    LinearSiLU: type,
    LinearSigmoid: type,
    LinearTanh: type,
}
_PYTORCH: dict[type[nn.Module], Callable[[nn.Module], object]] = {
    nn.Flatten: attrgetter("start_dim", "end_dim"),
    nn.Identity: type,
    nn.Linear: type,
}
_LINKS = _FUSED | _PYTORCH


def run(modules: Sequence[nn.Module], x, keeper: object):
    """What the modules make of x, each called on what the one before it gives.

    Args:
        modules: any; those that may be one node of the graph are, the others are called as always.
        x: what the first is called with.
        keeper: holds what is learnt, in its `__dict__`, as long as the modules are called in this order.
    """
    if len(modules) < 2 or not _may_chain(x):
        for module in modules:
            x = module(x)
        return x
    begin = 0
    while begin < len(modules):
        end = begin
        while end < len(modules) and _is_link(modules[end], x):
            end += 1
        links = modules[begin:end]
        parameters = [p for m in links for p in m._parameters.values() if p is not None]
        if _is_chain(links, parameters, x):
            options = tuple([(begin, type(m), _LINKS[type(m)](m)) for m in links])
            plans = keeper.__dict__.setdefault(PLANS, chain.Plans())
            x = chain.run(links, x, parameters, plans, options)
            begin = end
            continue
        for module in modules[begin : end + 1]:
            x = module(x)
        begin = end + 1
    return x


def is_fused(module: nn.Module) -> bool:
    """Is it a module that a chain is made for (two of them at least)?"""
    return type(module) in _FUSED


def may_link(module: nn.Module) -> bool:
    """Is it of a class that may be part of a chain?"""
    return type(module) in _LINKS


def _may_chain(x) -> bool:
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and type(x) is Tensor
        and x.is_cpu
        and not _has_any_global_hook()
        and not recompute.is_on()  # a chain holds all that its links do
        and eager.is_plain((x,))
        and x.numel() <= chain.MOST_INPUT_ELEMENTS  # last: while tracing it would be a tensor
    )


def _is_link(module: nn.Module, x: Tensor) -> bool:
    """Does the module call one op on its input, as its class says, and is nobody watching?"""
    kind = type(module)
    if kind not in _LINKS:
        return False
    if (kind is ConvReLU2d or kind is ConvReLUMaxPool2d) and not _is_one_op(module, x):
        return False
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _is_one_op(module: Any, x: Tensor) -> bool:
    """Other paddings are made before the op, and images without a batch are given one."""
    return module.padding_mode == "zeros" and not isinstance(module.padding, str) and x.dim() != 3


def _is_chain(links: Sequence[nn.Module], parameters: Sequence[Tensor], x: Tensor) -> bool:
    """Are there two fused modules, and is a gradient wanted?"""
    if sum(type(module) in _FUSED for module in links) < 2:
        return False
    return (
        (x.requires_grad or any(p.requires_grad for p in parameters))
        and all(p.is_cpu for p in parameters)
        and eager.is_plain((x, *parameters))
    )
