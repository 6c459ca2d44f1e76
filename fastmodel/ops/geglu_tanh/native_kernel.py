"""Host wrappers of csrc/geglu_tanh."""

from fastmodel.ops import gated

_KERNELS = gated.NativeGate("geglu_tanh")

forward_cpu = _KERNELS.forward_cpu
backward_cpu = _KERNELS.backward_cpu
