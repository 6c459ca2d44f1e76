"""Host wrappers of csrc/linear's CUDA kernels for linear_sigmoid."""

from fastmodel.ops.linear_cuda import CudaActivation

_KERNELS = CudaActivation("sigmoid")

forward = _KERNELS.forward_out
backward = _KERNELS.backward
