"""What a workload is: the parts of a training loop that every arm shares.

`fastmodel bench path/to/file.py:make_workload` calls `make_workload(options)` once and takes back an
object with the members of `Workload`. A class may inherit from `Workload` to get its defaults, or
have the members without inheriting. docs/workloads.md walks through an example.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

SCHEDULES = ("none", "cosine", "step")
AUTOCAST = {"none": None, "bfloat16": torch.bfloat16}
"""What forward and loss run under, by the name that is typed."""


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    `lr`, `accumulation` and `autocast` are None where they were not given: the workload then uses its own.
    `data` is the directory of the data set, None to have it found.
    """

    batch_size: int = 64
    epochs: int = 2
    seed: int = 0
    lr: float | None = None
    schedule: str = "none"
    data: Path | None = None
    device: str = "cpu"
    accumulation: int | None = None
    """Parts that each batch is cut into."""
    autocast: str | None = None
    """A name in AUTOCAST."""
    recomputes: bool = False
    """Does fastmodel's arm make cheap activations again in backward, instead of holding them?"""


@dataclass(frozen=True)
class Split:
    """Samples in memory: `inputs` of shape (N, ...), `targets` of shape (N, ...), same N."""

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: str, memory_format: torch.memory_format) -> Split:
        """The same samples on `device`; the layout is applied where inputs have 4 dimensions."""
        inputs = self.inputs.to(device)
        if inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=memory_format)
        return Split(inputs, self.targets.to(device))

    def head(self, count: int) -> Split:
        """The first `count` samples."""
        return Split(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True)
class Optimizer:
    """A `torch.optim` optimizer by name, so that an arm can build its own version of it."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Workload(Protocol):
    """A training job whose model, loss and optimizer fastmodel may replace.

    Everything here is plain PyTorch; the arms decide what runs in its place. `model` is called right
    after the random generators were seeded, so that every arm starts from the same weights.

    Beside these it may have, and is used where it has: `recipe` (recipe.py), `tokens_per_sample`,
    `flops_per_sample` (of a training step, for the utilization) and `bytes_per_target` (for bits per byte).
    """

    name: str
    description: str
    train: Split
    validation: Split
    test: Split

    def model(self) -> nn.Module:
        """A new model, initialised by PyTorch's global random generator."""
        ...

    def loss(self) -> nn.Module:
        """A new loss module; called as `loss(model(inputs), targets)`, returns a scalar."""
        ...

    def optimizer(self) -> Optimizer:
        """Which optimizer, and its arguments."""
        ...


REQUIRED = ("name", "description", "train", "validation", "test", "model", "loss", "optimizer")


def epoch_batches(
    split: Split, batch_size: int, seed: int, epoch: int, drop_last: bool = False
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch, in an order that depends on `seed` and `epoch` alone.

    The order has its own generator: it neither reads nor moves the global one, which dropout uses.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator).to(split.inputs.device)
    for index in order.split(batch_size):
        if drop_last and len(index) < batch_size:
            return
        yield take(split.inputs, index), take(split.targets, index)


def take(samples: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """samples[index], in the memory format of `samples`.

    index_select gathers 64 images of MNIST in 5 us where indexing takes 37, but knows one format alone.
    """
    if samples.is_contiguous():
        return samples.index_select(0, index)
    if samples.dim() == 4 and samples.is_contiguous(memory_format=torch.channels_last):
        return samples.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return samples[index]


def endless_batches(
    split: Split, batch_size: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Full batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from epoch_batches(split, batch_size, seed, epoch, drop_last=True)
        epoch += 1


def missing_members(candidate: object) -> list[str]:
    """The members of `Workload` that `candidate` lacks."""
    return [name for name in REQUIRED if not hasattr(candidate, name)]


def parameter_count(parameters: Iterable[torch.Tensor]) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in parameters)
