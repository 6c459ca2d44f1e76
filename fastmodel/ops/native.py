"""What the host wrappers of native kernels share: addresses, dtype codes and the thread count."""

from __future__ import annotations

import torch

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1}
"""As in csrc/common/dtypes.h."""


def address(tensor: torch.Tensor | None) -> int:
    """The address of a tensor's first element; 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def threads() -> int:
    """How many threads a CPU kernel uses: PyTorch's own setting."""
    return torch.get_num_threads()
