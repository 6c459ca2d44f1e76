"""A training loop of your own under the harness: a small MLP on synthetic data.

    fastmodel bench examples/own_loop.py:make_workload --window-s 0.2

The data are made up (two noisy spirals), so that this runs anywhere in seconds; put your own tensors
in their place. docs/workloads.md says what each member is for.
"""

import math

import torch
from torch import nn

from fastmodel.harness.workloads import Optimizer, Options, Split, Workload


class Spirals(Workload):
    """Two intertwined spirals, told apart by a multilayer perceptron."""

    name = "spirals"
    description = "synthetic: two spirals in the plane; MLP 2-128-128-2; cross-entropy; AdamW"

    def __init__(self, options: Options) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        self.train = spirals(4096, generator)
        self.validation = spirals(1024, generator)
        self.test = spirals(1024, generator)
        self.lr = 3e-3 if options.lr is None else options.lr

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(2, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, 2),
        )

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("AdamW", {"lr": self.lr})


def spirals(count: int, generator: torch.Generator) -> Split:
    """`count` points: x of shape (count, 2), float32; the spiral each lies on, 0 or 1."""
    targets = torch.randint(0, 2, (count,), generator=generator)
    radius = torch.rand(count, generator=generator).sqrt()
    angle = 3 * math.pi * radius + math.pi * targets
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    noise = 0.02 * torch.randn(count, 2, generator=generator)
    return Split(points + noise, targets)


def make_workload(options: Options) -> Workload:
    """What the command line names."""
    return Spirals(options)
