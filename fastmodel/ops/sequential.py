"""The drop-in for nn.Sequential: neighbours that are fused modules are one node of autograd's graph."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from fastmodel.ops import chain, eager
from fastmodel.ops.conv_relu.module import ConvReLU2d
from fastmodel.ops.conv_relu_maxpool.module import ConvReLUMaxPool2d
from fastmodel.ops.linear_gelu.module import LinearGELU
from fastmodel.ops.linear_relu.module import LinearReLU
from fastmodel.ops.linear_relu_dropout.module import LinearReLUDropout
from fastmodel.ops.linear_sigmoid.module import LinearSigmoid
from fastmodel.ops.linear_silu.module import LinearSiLU
from fastmodel.ops.linear_tanh.module import LinearTanh

_CONV = ("stride", "padding", "dilation", "groups")
_POOL = ("pool_kernel_size", "pool_stride", "pool_padding")

# Of each fused module, what its call depends on beside tensors.
_FUSED: dict[type[nn.Module], Callable[[nn.Module], object]] = {
    ConvReLU2d: attrgetter(*_CONV),
    ConvReLUMaxPool2d: attrgetter(*_CONV, *_POOL),
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


class Sequential(nn.Sequential):
    """`nn.Sequential` that runs fused neighbours as one node of autograd's graph.

    Two or more of fastmodel's modules, with nn.Linear, nn.Flatten and nn.Identity between or around them, are
    called past autograd and differentiated together, which saves tens of microseconds a module. Values,
    gradients, random numbers, parameters and state_dict are those of `nn.Sequential` (nn.Linear's up to
    rounding: small ones are taken by a kernel of ours). A module with hooks is called by itself. So is every
    module wherever PyTorch wants to see the single calls: under compilation, export, tracing, profiling,
    autocast, function and dispatch modes, transforms and forward-mode derivatives; on other devices than the
    CPU; and for large inputs (more than 2^20 elements).

    The gradients of such neighbours are ready together, when the last of them is; until then all that they
    saved is kept.

    Args:
        args: the modules, or one OrderedDict of them.
    """

    def forward(self, input):
        """What the last module makes of it."""
        modules = list(self._modules.values())
        if len(modules) < 2 or not _may_chain(input):
            return super().forward(input)
        begin = 0
        while begin < len(modules):
            end = begin
            while end < len(modules) and _is_link(modules[end], input):
                end += 1
            links = modules[begin:end]
            parameters = [p for m in links for p in m._parameters.values() if p is not None]
            if _is_chain(links, parameters, input):
                options = tuple([(begin, type(m), _LINKS[type(m)](m)) for m in links])
                plans = self.__dict__.setdefault(PLANS, {})
                input = chain.run(links, input, parameters, plans, options)
                begin = end
                continue
            for module in modules[begin : end + 1]:
                input = module(input)
            begin = end + 1
        return input

    @classmethod
    def from_torch(cls, source: nn.Sequential) -> Sequential:
        """The same modules under the same names; `source` is left as it is."""
        fused = cls(OrderedDict(source._modules))
        fused.training = source.training
        return fused

    def __getstate__(self) -> dict:
        """Without what was learnt of this process's kernels."""
        return {name: value for name, value in self.__dict__.items() if name != PLANS}


PLANS = "_fastmodel_plans"
"""Where a container keeps what its chains have learnt."""


def _may_chain(x) -> bool:
    return (
        not torch.compiler.is_compiling()
        and torch.is_grad_enabled()
        and type(x) is Tensor
        and x.is_cpu
        and x.numel() <= chain.MOST_INPUT_ELEMENTS
        and not _has_any_global_hook()
        and eager.is_plain((x,))
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
