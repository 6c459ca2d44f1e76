"""Host wrappers of csrc/linear's CUDA kernels for linear_gelu."""

from fastmodel.ops.linear_cuda import CudaActivation

_KERNELS = CudaActivation("gelu")

forward = _KERNELS.forward_pre
backward = _KERNELS.backward
