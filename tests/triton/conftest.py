"""These tests run in Triton's interpreter, on the CPU.

Triton decides where it is imported and where a kernel is decorated whether kernels are interpreted, and other
tests want them compiled: a process of its own, with TRITON_INTERPRET=1, runs every test of this directory.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from support.child import Child, Server, is_child

HERE = Path(__file__).parent
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# One thread: the interpreter is NumPy over small blocks.
INTERPRETER = Child(HERE, {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})


def pytest_configure(config):
    if is_child():
        config.pluginmanager.register(Server(config))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    if IS_INTERPRETED or not item.path.is_relative_to(HERE):
        return None
    INTERPRETER.run(item)
    return True


def pytest_unconfigure():
    INTERPRETER.stop()


@pytest.fixture(autouse=True)
def poisoned_outputs():
    """What a kernel does not write shows as NaN."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def quiet_arithmetic():
    """GPUs make NaN and infinity without a word; NumPy, which interprets, would warn."""
    with np.errstate(all="ignore"):
        yield
