"""Host wrappers of csrc/linear_silu."""

from fastmodel.ops import linear_layer

_KERNELS = linear_layer.NativeActivation("linear_silu")

forward_cpu = _KERNELS.forward_cpu
forward_library = _KERNELS.forward_library
backward_cpu = _KERNELS.backward_cpu
backward_library = _KERNELS.backward_library
