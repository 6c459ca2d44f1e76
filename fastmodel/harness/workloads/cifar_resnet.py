"""cifar-resnet: ResNet-18 for images of CIFAR's shape, on images that are made up.

The network is the one of He et al. for 32x32 images: a 3x3 first convolution, no first pool, four stages of
two residual blocks at 64, 128, 256 and 512 channels. The images are synthetic: each class is a fixed smooth
pattern under noise. Times are those of a ResNet-18; accuracies say nothing about CIFAR.

Source: He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition (2016).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload

CLASSES = 10
_TRAIN, _VALIDATION, _TEST = 4096, 512, 1024
_LR = 0.05


class CifarResnet(Workload):
    """The workload `cifar-resnet`."""

    name = "cifar-resnet"
    description = (
        "synthetic images of CIFAR's shape (3x32x32, 10 classes); ResNet-18; cross-entropy; SGD with "
        "momentum 0.9"
    )

    def __init__(self, options: Options) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        patterns = torch.randn(CLASSES, 3, 8, 8, generator=generator)
        patterns = F.interpolate(patterns, size=32, mode="bilinear", align_corners=False)
        self.train = _images(_TRAIN, patterns, generator)
        self.validation = _images(_VALIDATION, patterns, generator)
        self.test = _images(_TEST, patterns, generator)
        self._lr = _LR if options.lr is None else options.lr

    def model(self) -> nn.Module:
        return ResNet18()

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("SGD", {"lr": self._lr, "momentum": 0.9, "weight_decay": 5e-4})


class Block(nn.Module):
    """relu(x' + bn(conv(relu(bn(conv(x)))))), x' being x or its 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class ResNet18(nn.Module):
    """Images of shape (N, 3, 32, 32) to logits of shape (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(64)
        stages = []
        inputs = 64
        for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
            stages += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.classify = nn.Linear(512, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.relu(self.norm(self.conv(x))))
        return self.classify(x.mean(dim=(2, 3)))


def _images(count: int, patterns: torch.Tensor, generator: torch.Generator) -> Split:
    """Patterns under as much noise: inputs float32 (count, 3, 32, 32), targets int64 (count,)."""
    targets = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.randn(count, *patterns.shape[1:], generator=generator)
    return Split(patterns[targets] + noise, targets)
