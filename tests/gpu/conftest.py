"""What runs on an NVIDIA GPU alone: `make gpu` does, the suite skips it where there is none."""

import pytest
import torch


@pytest.fixture(autouse=True)
def float32_products():
    """Products of float32 matrices in float32, and the same kernels in each run."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def poisoned_outputs():
    """Uninitialised memory is NaN: what a kernel does not write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)
