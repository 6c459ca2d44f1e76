"""Small models, each with what `fm.optimize` is expected to swap and to leave in it."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

CONV, POOLED, LINEAR = "ConvReLU2d", "ConvReLUMaxPool2d", "LinearReLU"
DROPPED = "LinearReLUDropout"


@dataclass(frozen=True)
class Entry:
    """A model and the plan that it asks for."""

    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    swaps: dict[str, str]
    """Site to the class swapped in."""
    left: dict[str, str] = field(default_factory=dict)
    """Site to a part of the reason; complete, as `swaps` is."""
    is_deterministic: bool = True
    """False where training draws random numbers whose order a memory layout may move."""

    is_copyable: bool = True

    def __str__(self) -> str:
        return self.name


def image(n=4, c=1, h=12, w=12):
    return lambda: torch.randn(n, c, h, w)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(8 * 5 * 5, 16),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(16, 10),
    )


class Named(nn.Module):
    """Sequentials below a module of its own, which has nothing to trace."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential()
        self.features.add_module("first", nn.Conv2d(1, 4, 3, stride=2))
        self.features.add_module("act", nn.ReLU())
        self.features.add_module("pool", nn.MaxPool2d(3, 2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        if x.sum() > 1e9:  # FX cannot trace this
            return x
        return self.head(self.features(x))


class Functional(nn.Module):
    """The tutorial's way to write it: one pool for all, functions for the rest."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 6, 2, bias=False)
        self.pool = nn.MaxPool2d(2)
        self.unused = nn.Linear(2, 2)
        self.fc1 = nn.Linear(6 * 2 * 2, 12)
        self.fc2 = nn.Linear(12, 3)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = F.relu(F.max_pool2d(self.conv2(x), kernel_size=2))
        x = self.fc1(torch.flatten(x, 1)).relu()
        return F.log_softmax(self.fc2(x), dim=1)


class Spellings(nn.Module):
    """Every spelling of ReLU and max-pool, over the same input."""

    def __init__(self):
        super().__init__()
        for name in "abcdef":
            self.add_module(name, nn.Conv2d(1, 2, 3))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        a = F.max_pool2d(F.relu(self.a(x), inplace=True), (2, 2), stride=(2, 2))
        b = torch.max_pool2d(torch.relu(self.b(x)), 2)
        c = F.max_pool2d(self.c(x).relu_(), 2, 2)
        d = torch.relu_(self.d(x))
        e = F.max_pool2d(self.relu(self.e(x)), 2)
        f = F.max_pool2d(self.f(x).relu(), 3, stride=1, padding=1)
        return a + b + c + e, d, f


class Residual(nn.Module):
    """One conv that can be fused, one whose ReLU comes after the sum; one ReLU for both."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.conv2(self.relu(self.conv1(x))) + x)


class TwoReaders(nn.Module):
    """A conv output that is read twice, and a ReLU output that is."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 3, 3)
        self.conv2 = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        raw = self.conv1(x)
        seen = F.relu(self.conv2(F.relu(raw)))
        return F.max_pool2d(seen, 2), raw.mean(), seen.sum()


class Shared(nn.Module):
    """One conv called at three places, one of them without a ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x):
        return self.conv(F.relu(self.conv(F.max_pool2d(F.relu(self.conv(x)), 2))))


class FunctionalDropout(nn.Module):
    """Dropout and a branch that depend on the mode."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc1 = nn.Linear(4 * 25, 16)
        self.fc2 = nn.Linear(16, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.dropout(torch.flatten(F.relu(x), 1), 0.25, self.training)
        x = F.relu(self.fc1(x))
        if self.training:
            x = x * 2
        return self.fc2(F.dropout(x, training=self.training))


class ModeDecides(nn.Module):
    """The pool is there in training alone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return F.max_pool2d(x, 2) if self.training else x


class Pools(nn.Module):
    """Pools that the fused module does not take: conv + ReLU is fused, the pool stays."""

    def __init__(self):
        super().__init__()
        for name in ("dilated", "ceiled", "indexed"):
            self.add_module(name, nn.Conv2d(1, 2, 3))
        self.pool = nn.MaxPool2d(2, dilation=2)

    def forward(self, x):
        b = self.pool(F.relu(self.dilated(x)))
        c = F.max_pool2d(F.relu(self.ceiled(x)), 3, ceil_mode=True)
        d = F.max_pool2d(F.relu(self.indexed(x)), 2, return_indices=True)
        return b, c, d[0]


def batch_norm():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.Dropout2d(0.1),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1),
        nn.Sigmoid(),
    )


def hooked():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2)
    )
    model[0].register_forward_hook(do_nothing)
    model[4].register_forward_pre_hook(do_nothing)
    return model


def do_nothing(*_):
    return None


class Halved(nn.Module):
    def forward(self, weight):
        return weight * 0.5


class OwnConv(nn.Conv2d):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x) + 1


class OwnReLU(nn.ReLU):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 2


def with_state():
    model = nn.Sequential()
    for _ in range(5):
        model.append(nn.Conv2d(1, 1, 3)).append(nn.ReLU())
    model[0] = parametrizations.weight_norm(model[0])
    parametrize.register_parametrization(model[2], "weight", Halved())
    prune.l1_unstructured(model[4], "weight", 0.5)
    model[6] = OwnConv(1, 1, 1)
    model[9] = OwnReLU()
    return model


class DictInput(nn.Module):
    """A dict in, a named tuple and a dict out."""

    Pair = namedtuple("Pair", ("first", "rest"))

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, batch, scale: float = 1.0, mask=None):
        x = F.relu(self.conv(batch["image"])) * scale
        if mask is not None:
            x = x * mask
        return x, {"sum": x.sum(), "offset": batch["offset"] + 1}


class Listed(nn.Module):
    """Layers in a ModuleList, looped over."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2)]
        )

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Tapped(nn.Module):
    """Children of a Sequential called one by one, an inner value kept."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU())

    def forward(self, x):
        raw = self.net[0](x)
        return self.net[3](self.net[2](self.net[1](raw))), raw


class NoGradInside(nn.Module):
    """A part without gradients, which a graph would forget."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        with torch.no_grad():
            x = F.relu(self.conv(x))
        return F.relu(self.fc(x.mean((2, 3))))


class Counting(nn.Module):
    """Sets an attribute in each call."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.relu(self.conv(x))


class Noisy(nn.Module):
    """Draws random numbers that do not depend on its input."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)

    def forward(self, x):
        return F.relu(self.conv(x)) + (torch.rand(()) if self.training else 0.0)


class BufferOnly(nn.Module):
    """Batch norm beside a fused place, and a buffer that the forward adds to."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.conv = nn.Conv2d(1, 2, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("scratch", torch.ones(1), persistent=False)

    def forward(self, x):
        self.seen.add_(1)
        return F.relu(self.conv(self.norm(x))) * self.scratch


def tied():
    block = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.ReLU())
    conv = nn.Conv2d(2, 2, 1)
    return nn.Sequential(block, block, conv, nn.ReLU(), conv, nn.ReLU())


ENTRIES = (
    Entry(
        "lenet",
        lenet,
        image(),
        {"0": POOLED, "3": CONV, "6": DROPPED},
        {"9": "no ReLU after it"},
    ),
    Entry(
        "named",
        Named,
        image(),
        {"features.first": POOLED, "head.1": LINEAR},
        {"head.3": "no ReLU after it"},
    ),
    Entry(
        "functional",
        Functional,
        image(),
        {"conv1": POOLED, "conv2": POOLED, "fc1": LINEAR},
        {"unused": "do not reach it", "fc2": "no ReLU after it (next: log_softmax)"},
    ),
    Entry(
        "spellings",
        Spellings,
        image(),
        {"a": POOLED, "b": POOLED, "c": POOLED, "d": CONV, "e": POOLED, "f": POOLED},
    ),
    Entry(
        "residual",
        Residual,
        image(c=3),
        {"conv1": CONV},
        {"conv2": "add between it and the ReLU"},
    ),
    Entry(
        "nested residuals",
        lambda: nn.Sequential(Residual(), nn.Conv2d(3, 2, 1), nn.ReLU(), nn.MaxPool2d(2)),
        image(c=3),
        {"0.conv1": CONV, "1": POOLED},
        {"0.conv2": "add between it and the ReLU"},
    ),
    Entry(
        "two readers", TwoReaders, image(), {"conv2": CONV}, {"conv1": "its output has 2 readers"}
    ),
    Entry(
        "shared conv",
        Shared,
        image(c=2),
        {"conv (call 1)": POOLED, "conv (call 2)": CONV},
        {"conv (call 3)": "no ReLU after it (next: returned)"},
    ),
    Entry(
        "functional dropout",
        FunctionalDropout,
        image(),
        {"conv": POOLED, "fc1": LINEAR},
        {"fc2": "no ReLU after it"},
        is_deterministic=False,
    ),
    Entry(
        "mode decides",
        ModeDecides,
        image(),
        {},
        {"conv": "differs between training and evaluation"},
    ),
    Entry(
        "pools",
        Pools,
        image(),
        {"dilated": CONV, "ceiled": CONV, "indexed": CONV},
        {
            "dilated": "the pool has dilation 2",
            "ceiled": "the pool has ceil_mode",
            "indexed": "the pool returns indices",
        },
    ),
    Entry(
        "batch norm",
        batch_norm,
        image(),
        {"1": "BatchNormReLU2d"},
        {
            "0": "batch norm between it and the ReLU",
            "3": "Dropout2d between it and the ReLU",
            "6": "no ReLU after it (next: Sigmoid)",
        },
        is_deterministic=False,
    ),
    Entry(
        "hooks",
        hooked,
        image(),
        {"2": CONV},
        {"0": "it has hooks", "2": "the MaxPool2d has hooks"},
    ),
    Entry(
        "state beyond weight and bias",
        with_state,
        image(),
        {},
        {
            "0": "parametrized",
            "2": "parametrized",
            "4": "it has state beyond weight and bias",
            "6": "OwnConv is a subclass",
            "8": "no ReLU after it (next: OwnReLU)",
        },
        is_copyable=False,
    ),
    Entry(
        "dict input",
        DictInput,
        lambda: ({"image": torch.randn(2, 1, 5, 5), "offset": torch.ones(1)},),
        {"conv": CONV},
    ),
    Entry("module list", Listed, image(), {"layers.0": CONV, "layers.2": POOLED}),
    Entry(
        "tapped sequence",
        Tapped,
        image(),
        {},
        {"net.0": "called by others", "net.2": "called by others"},
    ),
    Entry(
        "no_grad inside",
        NoGradInside,
        image(),
        {"conv": CONV, "fc": LINEAR},
    ),
    Entry("sets an attribute", Counting, image(), {"conv": CONV}),
    Entry(
        "draws numbers",
        Noisy,
        image(),
        {"conv": CONV},
        is_deterministic=False,
    ),
    Entry("buffers", BufferOnly, image(), {"conv": CONV}),
    Entry(
        "tied modules",
        tied,
        image(c=2),
        {"0.0": CONV},
        {"2": "called at several places"},
    ),
)
