"""Host wrappers of csrc/linear's CUDA kernels for linear_tanh."""

from fastmodel.ops.linear_cuda import CudaActivation

_KERNELS = CudaActivation("tanh")

forward = _KERNELS.forward_out
backward = _KERNELS.backward
