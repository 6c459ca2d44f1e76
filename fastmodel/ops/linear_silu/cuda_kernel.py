"""Host wrappers of csrc/linear's CUDA kernels for linear_silu."""

from fastmodel.ops.linear_cuda import CudaActivation

_KERNELS = CudaActivation("silu")

forward = _KERNELS.forward_pre
backward = _KERNELS.backward
