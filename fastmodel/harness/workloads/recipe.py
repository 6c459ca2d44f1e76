"""How a training step is made beyond forward, loss, backward and the optimizer's own step.

Every arm follows the workload's recipe alike: micro-batches, autocast, clipping, a learning rate by the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from fastmodel.errors import InputError
from fastmodel.harness.workloads.protocol import AUTOCAST, Options, Workload

Schedule = torch.optim.lr_scheduler.LRScheduler


@dataclass(frozen=True)
class Recipe:
    """What a step does; the defaults are a plain one.

    A batch is cut into `accumulation` parts whose gradients add up to the batch's own. The learning rate
    rises in a line over `warmup_steps`, then falls along half a cosine to `final_share` of its top at step
    `total_steps`, where it stays; `total_steps` 0 is a constant rate.
    """

    accumulation: int = 1
    max_grad_norm: float | None = None
    autocast: torch.dtype | None = None
    warmup_steps: int = 0
    total_steps: int = 0
    final_share: float = 0.1

    def rate(self, step: int) -> float:
        """The share of the top learning rate that step `step`, from 0, is made at."""
        if self.total_steps == 0:
            return 1.0
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        span = max(1, self.total_steps - self.warmup_steps)
        done = min(1.0, (step - self.warmup_steps) / span)
        return self.final_share + (1 - self.final_share) * (1 + math.cos(math.pi * done)) / 2

    def schedule(self, optimizer: torch.optim.Optimizer) -> Schedule | None:
        """Sets the optimizer's rate at each of its steps; None where the rate is constant."""
        if self.total_steps == 0:
            return None
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step))

    def describe(self) -> str:
        """In words, what differs from a plain step; empty where nothing does."""
        parts = []
        if self.accumulation > 1:
            parts.append(f"{self.accumulation} micro-batches")
        if self.autocast is not None:
            parts.append(f"autocast to {str(self.autocast).removeprefix('torch.')}")
        if self.max_grad_norm is not None:
            parts.append(f"gradient norm clipped to {self.max_grad_norm:g}")
        if self.total_steps:
            parts.append(f"{self.warmup_steps} steps of warm-up, cosine until {self.total_steps}")
        return ", ".join(parts)


def recipe_of(workload: Workload, options: Options) -> Recipe:
    """The workload's own recipe, a plain one where it has none, with what the command line asks for.

    Raises:
        InputError: a batch cannot be cut into as many parts, or two learning-rate schedules are asked for.
    """
    recipe: Recipe = getattr(workload, "recipe", Recipe())
    if options.accumulation is not None:
        recipe = replace(recipe, accumulation=options.accumulation)
    if options.autocast is not None:
        recipe = replace(recipe, autocast=AUTOCAST[options.autocast])
    if not 1 <= recipe.accumulation <= options.batch_size:
        raise InputError(
            f"a batch of {options.batch_size} samples cannot be cut into {recipe.accumulation} parts; "
            "choose fewer with --accumulate, or a larger --batch-size"
        )
    if recipe.total_steps and options.schedule != "none":
        raise InputError(
            f"{workload.name} has a learning-rate schedule of its own; leave out --schedule"
        )
    return recipe
