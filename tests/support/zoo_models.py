"""Whole networks written for this project, small enough to train on two cores: the zoo of tests and benches.

Each `Network` makes a model, a batch and a loss, at two scales: "test" (seconds for 20 steps of all of them)
and "bench" (tens of milliseconds a step and more).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

TEST, BENCH = "test", "bench"


@dataclass(frozen=True)
class Batch:
    """What one training step takes."""

    inputs: Any
    """As `fm.optimize` takes its example inputs: a tensor, a tuple or a dict."""
    targets: torch.Tensor


@dataclass(frozen=True)
class Network:
    """One model of the zoo."""

    name: str
    make: Callable[[str], nn.Module]
    """From the scale to a new model; drop-out is 0, so that two copies train alike."""
    batch: Callable[[str], Batch]
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    optimizer: str = "SGD"

    def __str__(self) -> str:
        return self.name


def pick(scale: str, test: Any, bench: Any) -> Any:
    """The value for a scale."""
    return test if scale == TEST else bench


def call(model: nn.Module, inputs: Any) -> Any:
    """The model on a batch's inputs."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


class Predictions(nn.Module):
    """Cross-entropy over whatever a model returns: the logits, a tuple that starts with them, or a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.entropy = nn.CrossEntropyLoss()

    def forward(self, output, targets):
        if isinstance(output, dict):
            output = output["logits"]
        if isinstance(output, tuple):
            output = output[0]
        return self.entropy(output.reshape(targets.numel(), -1), targets.reshape(-1))


def images(test: tuple[int, ...], bench: tuple[int, ...], classes: int = 10):
    """A batch of images (N, C, H, W) at each scale."""

    def batch(scale: str) -> Batch:
        shape = pick(scale, test, bench)
        return Batch(torch.randn(shape), torch.randint(0, classes, shape[:1]))

    return batch


# ---------------------------------------------------------------- plain convolutional networks


def seed_cnn(scale: str) -> nn.Module:
    """The CNN of the benches."""
    a, b, c = pick(scale, (8, 16, 32), (32, 64, 128))
    return nn.Sequential(
        nn.Conv2d(1, a, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(a, b, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(b * 25, c),
        nn.ReLU(),
        nn.Dropout(0.0),
        nn.Linear(c, 10),
    )


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max-pool, functional as the tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


class AlexNet(nn.Module):
    """AlexNet for images of 64 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.features = nn.Sequential(
            nn.Conv2d(3, w, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(w, 3 * w, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(3 * w, 6 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(6 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(0.0),
            nn.LazyLinear(16 * w),
            nn.ReLU(inplace=True),
            nn.Dropout(0.0),
            nn.Linear(16 * w, 16 * w),
            nn.ReLU(inplace=True),
            nn.Linear(16 * w, 10),
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


def alexnet(scale: str) -> nn.Module:
    """AlexNet, its lazy layer made."""
    model = AlexNet(pick(scale, 4, 48))
    with torch.no_grad():
        model(torch.zeros(1, 3, pick(scale, 32, 64), pick(scale, 32, 64)))
    return model


_VGG = {
    11: (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    16: (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"),
}


def vgg(depth: int) -> Callable[[str], nn.Module]:
    """VGG for images of 32 pixels."""

    def make(scale: str) -> nn.Module:
        width, layers, channels = pick(scale, 4, 64), [], 3
        for item in _VGG[depth]:
            if item == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, item * width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = item * width
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, 10))

    return make


# ---------------------------------------------------------------- batch norm and residuals


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or channels != width:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 beside a shortcut."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * self.expansion
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + identity)


class ResNet(nn.Module):
    """ResNet for images of 32 or 64 pixels."""

    def __init__(self, block: type, counts: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels, stages = width, []
        for index, count in enumerate(counts):
            blocks, out = [], width << index
            for number in range(count):
                blocks.append(block(channels, out, 2 if number == 0 and index else 1))
                channels = out * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class InvertedResidual(nn.Module):
    """Expand, depthwise 3 x 3, project."""

    def __init__(self, channels: int, out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        layers: list[nn.Module] = []
        if expand != 1:
            layers += [nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden)]
            layers += [nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)]
        layers += [nn.BatchNorm2d(hidden), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(hidden, out, 1, bias=False), nn.BatchNorm2d(out)]
        self.conv = nn.Sequential(*layers)
        self.is_residual = stride == 1 and channels == out

    def forward(self, x):
        return x + self.conv(x) if self.is_residual else self.conv(x)


def mobilenet_v2(scale: str) -> nn.Module:
    """MobileNetV2 for images of 32 or 64 pixels."""
    rows = [(1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1)]
    rows += [(6, 160, 3, 2), (6, 320, 1, 1)]
    rows = pick(scale, [(1, 8, 1, 1), (3, 12, 2, 2)], rows)
    channels = pick(scale, 8, 32)
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(channels), nn.ReLU6(inplace=True)]
    for expand, out, count, stride in rows:
        for number in range(count):
            layers.append(InvertedResidual(channels, out, stride if number == 0 else 1, expand))
            channels = out
    last = pick(scale, 16, 1280)
    layers += [nn.Conv2d(channels, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6(True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10))


class UNet(nn.Module):
    """U-Net of three levels, as published: convolutions with biases, ReLU, no norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        w = width
        self.down1, self.down2 = self._double(1, w), self._double(w, 2 * w)
        self.bottom = self._double(2 * w, 4 * w)
        self.up2 = nn.ConvTranspose2d(4 * w, 2 * w, 2, 2)
        self.up1 = nn.ConvTranspose2d(2 * w, w, 2, 2)
        self.merge2, self.merge1 = self._double(4 * w, 2 * w), self._double(2 * w, w)
        self.head = nn.Conv2d(w, 2, 1)

    @staticmethod
    def _double(channels: int, out: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        low = self.bottom(F.max_pool2d(two, 2))
        two = self.merge2(torch.cat([self.up2(low), two], 1))
        return self.head(self.merge1(torch.cat([self.up1(two), one], 1)))


def segments(scale: str) -> Batch:
    """Images and a class for each pixel."""
    n, size = pick(scale, (2, 16), (4, 64))
    return Batch(torch.randn(n, 1, size, size), torch.randint(0, 2, (n, size, size)))


# ---------------------------------------------------------------- transformers


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.is_causal = heads, is_causal

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out(mixed.transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, is_causal)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer."""

    def __init__(self, size: int, patch: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, 4, False) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


class GPT(nn.Module):
    """A decoder over tokens; its head is tied to the embedding."""

    def __init__(self, vocabulary: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, 4, True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def tokens(scale: str) -> Batch:
    """Token indexes, and the next ones."""
    n, t, vocabulary = pick(scale, (2, 8, 32), (8, 64, 4096))
    text = torch.randint(0, vocabulary, (n, t + 1))
    return Batch(text[:, :-1].contiguous(), text[:, 1:].contiguous())


# ---------------------------------------------------------------- shapes of code


class ConvRNN(nn.Module):
    """A convolutional front end over a spectrogram, then a GRU."""

    def __init__(self, width: int, bands: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.rnn = nn.GRU(width * (bands // 4), 2 * width, batch_first=True)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        x = x.permute(0, 3, 1, 2).flatten(2)
        states, _ = self.rnn(x)
        return self.head(states[:, -1])


class Branches(nn.Module):
    """Control flow on values, and an early return: FX does not trace it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.conv3 = nn.Conv2d(width, width, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(width * 16, 64), nn.Linear(64, 10)

    def forward(self, x, stop_early: bool = False):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        if x.mean() > 1e6:
            x = x / x.mean()
        x = F.relu(self.conv2(x))
        if stop_early:
            return x
        x = F.max_pool2d(F.relu(self.conv3(x)), 2)
        x = F.adaptive_max_pool2d(x, 4).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


class DictNet(nn.Module):
    """A dict of keyword arguments in, a dict out; one trunk for both images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
        )
        self.fc = nn.Linear(2 * width * 16 * 2, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, left, right, scale: float = 1.0):
        both = torch.cat([self.trunk(left).flatten(1), self.trunk(right).flatten(1)], 1)
        hidden = F.relu(self.fc(both * scale))
        return {"logits": self.head(hidden), "hidden": hidden}


class TupleNet(nn.Module):
    """A tuple in (an image and numbers beside it), a tuple out; a layer used twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.again = nn.Conv2d(width, width, 3, padding=1)
        self.fc = nn.Linear(width * 16 + 4, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, image, numbers):
        x = F.max_pool2d(F.relu(self.conv(image)), 2)
        x = F.relu(self.again(F.relu(self.again(x))))
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        hidden = F.relu(self.fc(torch.cat([x, numbers], 1)))
        return self.head(hidden), hidden.mean()


class TiedAutoencoder(nn.Module):
    """An autoencoder whose decoder has the encoder's weight, transposed."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, hidden)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)


def vectors(scale: str) -> Batch:
    """Vectors to be given back."""
    x = torch.randn(pick(scale, (8, 24), (128, 784)))
    return Batch(x, x.clone())


def spectrogram(scale: str) -> Batch:
    """(N, 1, bands, frames)."""
    n, bands, frames = pick(scale, (2, 8, 16), (16, 40, 96))
    return Batch(torch.randn(n, 1, bands, frames), torch.randint(0, 10, (n,)))


def two_images(scale: str) -> Batch:
    """A pair of images by keyword."""
    shape = pick(scale, (4, 3, 12, 12), (32, 3, 32, 32))
    pair = {"left": torch.randn(shape), "right": torch.randn(shape)}
    return Batch(pair, torch.randint(0, 10, shape[:1]))


def image_and_numbers(scale: str) -> Batch:
    """An image and four numbers."""
    shape = pick(scale, (4, 3, 12, 12), (32, 3, 32, 32))
    return Batch((torch.randn(shape), torch.randn(shape[0], 4)), torch.randint(0, 10, shape[:1]))


NETWORKS = (
    Network("seed-cnn", seed_cnn, images((8, 1, 28, 28), (64, 1, 28, 28)), optimizer="Adam"),
    Network("lenet", lambda scale: LeNet(), images((8, 1, 28, 28), (64, 1, 28, 28))),
    Network("alexnet", alexnet, images((4, 3, 32, 32), (32, 3, 64, 64))),
    Network("vgg-11", vgg(11), images((4, 3, 32, 32), (32, 3, 32, 32))),
    Network("vgg-16", vgg(16), images((4, 3, 32, 32), (16, 3, 32, 32))),
    Network(
        "resnet-18",
        lambda scale: ResNet(
            BasicBlock, pick(scale, (1, 1, 1, 1), (2, 2, 2, 2)), pick(scale, 4, 64)
        ),
        images((4, 3, 16, 16), (16, 3, 32, 32)),
    ),
    Network(
        "resnet-50",
        lambda scale: ResNet(
            Bottleneck, pick(scale, (1, 1, 1, 1), (3, 4, 6, 3)), pick(scale, 4, 64)
        ),
        images((4, 3, 16, 16), (16, 3, 32, 32)),
    ),
    Network("mobilenet-v2", mobilenet_v2, images((4, 3, 32, 32), (16, 3, 64, 64))),
    Network("u-net", lambda scale: UNet(pick(scale, 4, 32)), segments),
    Network(
        "vit",
        lambda scale: ViT(*pick(scale, (8, 4, 16, 2), (32, 4, 192, 6))),
        images((4, 3, 8, 8), (16, 3, 32, 32)),
        optimizer="AdamW",
    ),
    Network(
        "gpt",
        lambda scale: GPT(*pick(scale, (32, 8, 16, 2), (4096, 64, 256, 4))),
        tokens,
        Predictions,
        "AdamW",
    ),
    Network("conv-rnn", lambda scale: ConvRNN(pick(scale, 4, 32), pick(scale, 8, 40)), spectrogram),
    Network(
        "branches",
        lambda scale: Branches(pick(scale, 4, 32)),
        images((4, 3, 16, 16), (32, 3, 32, 32)),
    ),
    Network("dict", lambda scale: DictNet(pick(scale, 4, 32)), two_images, Predictions),
    Network("tuple", lambda scale: TupleNet(pick(scale, 4, 32)), image_and_numbers, Predictions),
    Network(
        "tied-autoencoder",
        lambda scale: TiedAutoencoder(*pick(scale, (24, 8), (784, 256))),
        vectors,
        nn.MSELoss,
        "Adam",
    ),
)
