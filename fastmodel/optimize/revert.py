"""`fm.revert`: the plain model again, with the weights as they are now."""

from __future__ import annotations

from torch import nn

from fastmodel.errors import InputError
from fastmodel.optimize.clone import shared_clone
from fastmodel.optimize.patterns import is_fused
from fastmodel.optimize.plan import plan_of
from fastmodel.optimize.swapped_out import CHAINED, PLAIN, restored


def revert(model: nn.Module) -> nn.Module:
    """The model as it was before `fm.optimize`, over the Parameters and buffers that it has now.

    Modules are of PyTorch's own classes again, in the modes that they have now, and with the hooks that were
    put on them since; captured forwards, the entry's layout and autocast, and the plan are gone. `model` is
    left as it is.

    Args:
        model: what `fm.optimize` returned, or a copy of it; not wrapped (pass the wrapper's module).

    Raises:
        InputError: `model` does not come from `fm.optimize`, or is wrapped.
    """
    plan_of(model)
    if type(model).__name__ in ("OptimizedModule", "DistributedDataParallel"):
        raise InputError(
            f"revert: the model is wrapped in {type(model).__name__}; pass the module inside"
        )
    plain = shared_clone(model)
    for container in list(plain.modules()):
        for key, bare in container.__dict__.pop(PLAIN, {}).items():
            current = container._modules.get(key)
            # What somebody has put there since stays.
            if current is not None and (is_fused(current) or type(current) is nn.Identity):
                container._modules[key] = restored(bare, current)
        if container.__dict__.pop(CHAINED, False):
            container.__class__ = nn.Sequential
    return plain
