"""Host wrappers of csrc/add_layer_norm."""

from fastmodel.ops.norm_native import NativeNorm, promotes_to_a_native_dtype

__all__ = ["backward_cpu", "forward_cpu", "promotes_to_a_native_dtype"]

_KERNELS = NativeNorm("add_layer_norm", stats=2)

forward_cpu = _KERNELS.forward
backward_cpu = _KERNELS.backward
