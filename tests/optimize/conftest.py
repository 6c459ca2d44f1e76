"""Every test starts from the same random numbers, and from a Dynamo that has given up on nothing.

Captured classes share the code of their forward, and Dynamo remembers by code what it will not compile.
"""

import pytest
import torch


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
