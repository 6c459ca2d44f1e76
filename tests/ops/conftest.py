"""Every op test runs with uninitialised memory filled with NaN: what a kernel does not write shows."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_outputs():
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)
