"""Host wrappers of csrc/linear's CUDA kernels for linear_relu."""

from fastmodel.ops.linear_cuda import CudaActivation

_KERNELS = CudaActivation("relu")

forward = _KERNELS.forward_out
backward = _KERNELS.backward
