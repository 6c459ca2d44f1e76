"""The drop-in for nn.Sequential: neighbours that are fused modules are one node of autograd's graph."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fastmodel.ops import neighbours


class Sequential(nn.Sequential):
    """`nn.Sequential` that runs fused neighbours as one node of autograd's graph.

    Two or more of fastmodel's modules, with nn.Linear, nn.Flatten and nn.Identity between or around them, are
    called past autograd and differentiated together, which saves tens of microseconds a module. Values,
    gradients, random numbers, parameters and state_dict are those of `nn.Sequential` (nn.Linear's up to
    rounding: small ones are taken by a kernel of ours). A module with hooks is called by itself. So is every
    module wherever PyTorch wants to see the single calls: under compilation, export, tracing, profiling,
    autocast, function and dispatch modes, transforms and forward-mode derivatives; on other devices than the
    CPU; for large inputs (more than 2^20 elements); and where `fm.recompute_activations` spares memory.

    The gradients of such neighbours are ready together, when the last of them is; until then all that they
    saved is kept.

    Args:
        args: the modules, or one OrderedDict of them.
    """

    def forward(self, input):
        """What the last module makes of it."""
        return neighbours.run(list(self._modules.values()), input, self)

    @classmethod
    def from_torch(cls, source: nn.Sequential) -> Sequential:
        """The same modules under the same names; `source` is left as it is."""
        fused = cls(OrderedDict(source._modules))
        fused.training = source.training
        return fused
