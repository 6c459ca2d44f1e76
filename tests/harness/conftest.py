"""A small workload and stand-ins for what fastmodel puts in place of PyTorch's parts.

The stand-ins are PyTorch's own modules, so that the harness is tested apart from the kernels; the
end-to-end test of the command line runs the real ones.
"""

from __future__ import annotations

import copy
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness import report
from fastmodel.harness.profile import ceilings
from fastmodel.harness.roofline_records import Ceilings
from fastmodel.harness.workloads import Optimizer, Options, Split, Workload


class Blobs(Workload):
    """64 tiny images whose class is which quarter is bright: learnt in a few steps."""

    name = "blobs"
    description = "synthetic: bright quarters of 8x8 images"

    def __init__(self, options: Options, count: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        targets = torch.arange(count) % 4
        images = 0.1 * torch.rand(count, 1, 8, 8, generator=generator)
        for image, target in zip(images, targets.tolist(), strict=True):
            row, column = 4 * (target // 2), 4 * (target % 2)
            image[:, row : row + 4, column : column + 4] += 1.0
        split = Split(images, targets)
        self.train = split
        self.validation = split.head(16)
        self.test = split.head(8)
        self.lr = options.lr or 1e-2

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 4, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(36, 4),
        )

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("Adam", {"lr": self.lr})


@dataclass(frozen=True)
class Place:
    site: str
    pattern: str
    replacement: str | None
    reason: str


@pytest.fixture
def options() -> Options:
    return Options(batch_size=8, epochs=2)


@pytest.fixture
def blobs(options) -> Blobs:
    return Blobs(options)


ROOF = Ceilings("cpu", "float32", 200.0, 100.0, 10.0)


@pytest.fixture
def stand_ins(monkeypatch) -> None:
    """PyTorch's parts under fastmodel's names, and a roof that takes no time to measure."""
    monkeypatch.setattr(ceilings, "measure", lambda device, dtype: ROOF)
    plan = types.SimpleNamespace(
        swaps=(Place("0", "Conv2d + ReLU", "ConvReLU2d", "fits"),),
        left=(Place("5", "Linear", None, "no ReLU follows"),),
    )
    optim = types.SimpleNamespace(Adam=torch.optim.Adam, SGD=torch.optim.SGD)
    monkeypatch.setattr(fm, "optimize", lambda model, inputs, **_: copy.deepcopy(model))
    monkeypatch.setattr(fm, "plan_of", lambda model: plan)
    monkeypatch.setattr(fm, "optim", optim)
    monkeypatch.setattr(fm.nn, "CrossEntropyLoss", nn.CrossEntropyLoss)
    monkeypatch.setattr(report, "render_markdown", lambda r: f"# {r.workload.name}")
    monkeypatch.setattr(report, "render_html", lambda r: f"<h1>{r.complete}</h1>")
