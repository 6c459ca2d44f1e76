"""CUDA kernels: on a GPU where there is one and the kernels are built, else emulated on the CPU.

Tests make their tensors on `device` and ask for `fm.use_backend("cuda")`.
"""

import pytest
import torch

from fastmodel import env
from fastmodel.ops import dispatch

IS_GPU_HERE = env.cuda_missing() is None


@pytest.fixture(autouse=True)
def cuda_kernels(monkeypatch):
    """Emulates CUDA where there is no GPU; skips where neither is built."""
    if not IS_GPU_HERE:
        monkeypatch.setenv("FASTMODEL_CUDA_EMULATE", "1")
    if env.cuda_missing() is not None:
        pytest.skip(env.cuda_missing())
    yield
    # The choice of kernels is remembered, and differs outside.
    dispatch._candidates.cache_clear()


@pytest.fixture
def device() -> str:
    return "cuda" if IS_GPU_HERE else "cpu"


@pytest.fixture(autouse=True)
def poisoned_outputs():
    """Uninitialised memory is NaN: what a kernel does not write shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)
