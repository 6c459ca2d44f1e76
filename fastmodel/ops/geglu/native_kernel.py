"""Host wrappers of csrc/geglu."""

from fastmodel.ops import gated

_KERNELS = gated.NativeGate("geglu")

forward_cpu = _KERNELS.forward_cpu
backward_cpu = _KERNELS.backward_cpu
