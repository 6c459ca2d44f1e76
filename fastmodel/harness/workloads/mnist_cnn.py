"""mnist-cnn: two convolutions and two linear layers on MNIST, the job that everything is measured by.

Images are scaled to [0, 1] and nothing else. The last 10 % of the training set, 6,000 of 60,000
images, are the validation set.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fastmodel.harness.workloads.datasets import load_mnist
from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload

_VALIDATION_SHARE = 0.1
_LR = 1e-3


class MnistCnn(Workload):
    """The workload `mnist-cnn`."""

    name = "mnist-cnn"
    description = (
        "MNIST; conv 1-32 3x3, ReLU, max-pool 2, conv 32-64 3x3, ReLU, max-pool 2, "
        "linear 128, ReLU, dropout 0.5, linear 10; cross-entropy; Adam"
    )

    def __init__(self, options: Options) -> None:
        mnist = load_mnist(options.data)
        everything = _split(mnist.train_images, mnist.train_labels)
        count = len(everything)
        train_count = count - round(count * _VALIDATION_SHARE)
        self.train = everything.head(train_count)
        self.validation = Split(everything.inputs[train_count:], everything.targets[train_count:])
        self.test = _split(mnist.test_images, mnist.test_labels)
        self._lr = _LR if options.lr is None else options.lr

    def model(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 5 * 5, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
        )

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("Adam", {"lr": self._lr})


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    """uint8 (N, 28, 28) and (N,) to float32 (N, 1, 28, 28) in [0, 1] and int64 (N,)."""
    inputs = torch.tensor(images).unsqueeze(1).float().div_(255.0)
    return Split(inputs, torch.tensor(labels, dtype=torch.int64))
