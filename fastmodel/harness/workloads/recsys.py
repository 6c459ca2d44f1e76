"""recsys: will this user click on this item? Embedding bags and an MLP, on clicks that are made up.

A sample is three lists of eight ids each (what the user did, the item's tags, the context), drawn by Zipf's
law from 20,000, as such ids are: few come often, most hardly ever. Each list goes through an embedding bag
(its rows' mean), the three means through an MLP. Whether there was a click depends on hidden weights of the
ids, with noise. All of it is synthetic: times are those of such a model, accuracies say nothing about real
clicks.
"""

from __future__ import annotations

import torch
from torch import nn

from fastmodel.harness.workloads.protocol import Optimizer, Options, Split, Workload

LISTS, LENGTH, IDS, WIDTH = 3, 8, 20_000, 32
_TRAIN, _VALIDATION, _TEST = 65_536, 8_192, 8_192
_LR = 1e-3


class Recsys(Workload):
    """The workload `recsys`."""

    name = "recsys"
    description = (
        f"synthetic clicks; {LISTS} lists of {LENGTH} ids of {IDS:,}, embedding bags of width {WIDTH}, "
        "MLP 96-256-128-2; cross-entropy; Adam"
    )

    def __init__(self, options: Options) -> None:
        generator = torch.Generator().manual_seed(options.seed)
        weights = torch.randn(LISTS, IDS, generator=generator)
        self.train = _clicks(_TRAIN, weights, generator)
        self.validation = _clicks(_VALIDATION, weights, generator)
        self.test = _clicks(_TEST, weights, generator)
        self._lr = _LR if options.lr is None else options.lr

    def model(self) -> nn.Module:
        return ClickModel()

    def loss(self) -> nn.Module:
        return nn.CrossEntropyLoss()

    def optimizer(self) -> Optimizer:
        return Optimizer("Adam", {"lr": self._lr})


class ClickModel(nn.Module):
    """Ids of shape (N, 3, 8), int64, to logits of shape (N, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(IDS, WIDTH, mode="mean") for _ in range(LISTS))
        self.mlp = nn.Sequential(
            nn.Linear(LISTS * WIDTH, 256),
            nn.ReLU(),
            nn.Linear(256, 128),
            nn.ReLU(),
            nn.Linear(128, 2),
        )

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        means = [bag(ids[:, index]) for index, bag in enumerate(self.bags)]
        return self.mlp(torch.cat(means, dim=1))


def _clicks(count: int, weights: torch.Tensor, generator: torch.Generator) -> Split:
    """Ids by Zipf's law, int64 (count, 3, 8); clicks by the mean hidden weight, int64 (count,)."""
    uniform = torch.rand(count, LISTS, LENGTH, generator=generator, dtype=torch.float64)
    ids = (IDS**uniform).long() - 1  # density 1/(id + 1)
    score = torch.stack([weights[one][ids[:, one]].mean(1) for one in range(LISTS)]).sum(0)
    noise = 0.3 * torch.randn(count, generator=generator)
    return Split(ids, (score + noise > 0).long())
