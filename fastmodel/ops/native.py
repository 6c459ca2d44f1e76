"""What the host wrappers of native kernels share: addresses, dtype codes and the thread count."""

from __future__ import annotations

from typing import Any

import torch

from fastmodel import env
from fastmodel.errors import BackendError

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
"""As in csrc/common/dtypes.h."""

GPU_DTYPE_CODES = {**DTYPE_CODES, torch.float16: 2}
"""Of the kernels for GPUs."""


def address(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def threads() -> int:
    """How many threads a CPU kernel uses: PyTorch's own setting."""
    return torch.get_num_threads()


def stream(tensor: torch.Tensor) -> Any:
    """Where a CUDA kernel runs: the tensor's device and the stream that is current there.

    Raises:
        BackendError: CUDA is emulated, and the tensor lies on a GPU.
        BuildError: the kernels are not built.
    """
    if not tensor.is_cuda:
        return env.cuda().Stream(0, 0)
    if "cuda" in env.simulated():
        raise BackendError(
            "FASTMODEL_CUDA_EMULATE=1 runs CUDA kernels on CPU tensors; unset it for tensors on a GPU"
        )
    index = tensor.get_device()
    return env.cuda().Stream(index, torch._C._cuda_getCurrentRawStream(index))


def is_captured(tensor: torch.Tensor) -> bool:
    """Is work on the tensor's device being recorded into a CUDA graph, which will repeat it?"""
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
