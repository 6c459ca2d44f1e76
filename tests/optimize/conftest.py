"""Every test starts from the same random numbers, and from a Dynamo that has given up on nothing.

Captured classes share the code of their forward, and Dynamo remembers by code what it will not compile.
"""

import pytest
import torch
from support.planted_times import FAST

from fastmodel.optimize import Measurement, measured, trials


@pytest.fixture(autouse=True)
def fresh_seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()


@pytest.fixture
def races(monkeypatch):
    """Replaces both kinds of race; returns what the whole step's will say, in order, then FAST."""
    whole: list[Measurement | None] = []
    monkeypatch.setattr(trials, "race", lambda *_: FAST)
    monkeypatch.setattr(measured, "race", lambda *_: whole.pop(0) if whole else FAST)
    monkeypatch.setattr(measured, "ranking", lambda arms, *_: list(arms))
    return whole
