"""Where the tests for GPUs run, and why they do not where they cannot."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = os.environ.get("FASTMODEL_GPU_TESTS", "cuda")
"""FASTMODEL_GPU_TESTS=cpu runs them on the CPU, to test the tests: rows for GPUs are left out then."""


def require() -> None:
    """Skip a whole file where there is no GPU."""
    if DEVICE == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device", allow_module_level=True)
