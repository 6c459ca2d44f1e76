"""Host wrappers of csrc/rope_interleaved."""

from fastmodel.ops import rotary

_KERNELS = rotary.NativeRotary("rope_interleaved")

forward_cpu = _KERNELS.forward_cpu
backward_cpu = _KERNELS.backward_cpu
