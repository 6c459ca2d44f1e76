"""Host wrappers of csrc/rope."""

from fastmodel.ops import rotary

_KERNELS = rotary.NativeRotary("rope")

forward_cpu = _KERNELS.forward_cpu
backward_cpu = _KERNELS.backward_cpu
