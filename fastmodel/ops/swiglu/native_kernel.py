"""Host wrappers of csrc/swiglu."""

from fastmodel.ops import gated

_KERNELS = gated.NativeGate("swiglu")

forward_cpu = _KERNELS.forward_cpu
backward_cpu = _KERNELS.backward_cpu
