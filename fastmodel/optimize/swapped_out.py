"""What was swapped out of a container: kept without its Parameters and buffers, and made whole again."""

from __future__ import annotations

from torch import nn

PLAIN = "_fastmodel_plain"
"""Where a container keeps the modules that were swapped out, without their Parameters: key to module."""

CHAINED = "_fastmodel_chained"
"""Set on a container that was a plain nn.Sequential."""

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)


_TENSORS = ("_parameters", "_buffers")
_OPTIONS = ("eps", "momentum", "track_running_stats")
"""Attributes of a batch norm that training loops set."""


def bare_copy(module: nn.Module) -> nn.Module:
    """A copy of a module without its tensors, which live on in the one that takes its place."""
    bare = object.__new__(type(module))
    bare.__dict__.update(vars(module))
    for tensors in _TENSORS:
        bare.__dict__[tensors] = dict.fromkeys(vars(module)[tensors])
    return bare


def restored(bare: nn.Module, current: nn.Module) -> nn.Module:
    """The module that was swapped out, with the tensors, mode and hooks of what stands there now."""
    module = object.__new__(type(bare))
    module.__dict__.update(vars(bare))
    for tensors in _TENSORS:
        module.__dict__[tensors] = {
            name: vars(current)[tensors][name] for name in vars(bare)[tensors]
        }
    module.__dict__.update({name: vars(current)[name] for name in _OPTIONS if name in vars(bare)})
    for hooks in _HOOKS:
        module.__dict__[hooks] = vars(current)[hooks].copy()
    module.training = current.training
    return module
