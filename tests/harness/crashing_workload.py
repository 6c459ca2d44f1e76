"""A workload for runs in other processes, and ways in which its compiled arm may go wrong."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

from fastmodel.harness.workloads import Optimizer, Options, Split, Workload

BAD_WORD = "double free or corruption"


class Quadrants(Workload):
    """Points whose class is the quadrant that they lie in."""

    name = "quadrants"
    description = "synthetic: points of the plane by quadrant"

    def __init__(self, options: Options) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        points = torch.randn(256, 2, generator=generator)
        split = Split(points, (points[:, 0] > 0).long() + 2 * (points[:, 1] > 0).long())
        self.train, self.validation, self.test = split, split.head(64), split.head(64)

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("Adam", {"lr": 1e-2})


def make(options: Options) -> Workload:
    """Torch.compile is a stand-in that does nothing, or fails as FASTMODEL_TEST_COMPILE says."""
    how = os.environ.get("FASTMODEL_TEST_COMPILE", "works")

    def compile_(model: nn.Module, **_: object) -> nn.Module:
        if how == "raises":
            raise OSError("no compiler\nfound")
        if how != "works":
            model.register_forward_hook(_crash_after(int(how)))
        return model

    torch.compile = compile_
    return Quadrants(options)


def _crash_after(calls: int):
    left = [calls]

    def hook(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.write(2, BAD_WORD.encode() + b"\n")
            os.kill(os.getpid(), signal.SIGABRT)

    return hook
