"""Whole training steps of the zoo's networks, PyTorch's arms and fastmodel's in turns: `make bench-zoo`.

A network is optimized by `fm.optimize_step` first; then every arm gets a copy of its own of the same weights,
and fresh windows are timed, not those of the selection. PyTorch has three arms: as it is written; with
fused=True; and channels_last with fused=True where the inputs are images. One file a network.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from support.zoo_models import BENCH, NETWORKS, Network, call
from torch import nn
from torch.utils import _pytree as pytree

import fastmodel as fm
from fastmodel.harness.environment import environment
from fastmodel.harness.records import Environment
from fastmodel.timing import (
    Estimate,
    Sample,
    geometric_mean,
    interleave,
    mean_ratio,
    now_s,
    paired_ratios,
)

SCHEMA_VERSION = 1
TORCH, FASTMODEL = "torch", "fastmodel"
_LR = 1e-4
_WINDOW_S = 0.03


@dataclass(frozen=True)
class Result:
    """One network."""

    schema_version: int
    network: str
    inputs: str
    optimizer: str
    environment: Environment
    plan: fm.Plan
    step_ms: dict[str, float]
    """Arm to the geometric mean of its steps."""
    best_torch: str
    """PyTorch's arm with the smallest of them."""
    ratio: Estimate
    """The plain model's time over fastmodel's, round by round: above 1 fastmodel is faster."""
    ratio_to_best: Estimate
    """The same for PyTorch's fastest arm."""
    steps_a_window: int
    samples: list[Sample]


ADAPTER = TypeAdapter(Result)


def step(model: nn.Module, loss: Any, optimizer: Any, inputs: Any, targets: Any) -> Callable:
    """One training step as a loop has it."""

    def run() -> None:
        optimizer.zero_grad()
        loss(call(model, inputs), targets).backward()
        optimizer.step()

    return run


def arms_of(network: Network, budget_s: float) -> tuple[dict[str, Callable], fm.Plan]:
    """Name to a step, each over weights of its own, and the plan of fastmodel's."""
    torch.manual_seed(0)
    model, batch = network.make(BENCH), network.batch(BENCH)
    kind = getattr(torch.optim, network.optimizer)

    def torch_arm(is_last: bool = False, **options: Any) -> Callable:
        own, inputs = copy.deepcopy(model), batch.inputs
        if is_last:
            own = own.to(memory_format=torch.channels_last)
            inputs = pytree.tree_map_only(torch.Tensor, _last, inputs)
        optimizer = kind(own.parameters(), lr=_LR, **options)
        return step(own, network.loss(), optimizer, inputs, batch.targets)

    arms = {TORCH: torch_arm(), "torch-fused": torch_arm(fused=True)}
    if any(leaf.dim() == 4 for leaf in pytree.tree_leaves(batch.inputs)):
        arms["torch-channels_last"] = torch_arm(is_last=True, fused=True)
    own = copy.deepcopy(model)
    parts = own, network.loss(), kind(own.parameters(), lr=_LR)
    ours = fm.optimize_step(*parts, batch.inputs, batch.targets, budget_s=budget_s)
    arms[FASTMODEL] = step(*ours, batch.inputs, batch.targets)
    return arms, fm.plan_of(ours.model)


def _last(value: torch.Tensor) -> torch.Tensor:
    return value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value


def measure(network: Network, pairs: int, budget_s: float) -> Result:
    """Optimize one network and time all its arms."""
    arms, plan = arms_of(network, budget_s)
    for run in arms.values():
        for _ in range(3):
            run()
    start_s = now_s()
    arms[TORCH]()
    steps = max(1, math.ceil(_WINDOW_S / (now_s() - start_s)))
    samples = list(interleave({name: _window(run, steps) for name, run in arms.items()}, pairs))
    step_ms = {
        name: geometric_mean([s.time_s for s in samples if s.arm == name]) / steps * 1e3
        for name in arms
    }
    best = min((name for name in arms if name != FASTMODEL), key=step_ms.__getitem__)
    leaves = pytree.tree_leaves(network.batch(BENCH).inputs)
    return Result(
        SCHEMA_VERSION,
        network.name,
        ", ".join("x".join(map(str, leaf.shape)) for leaf in leaves),
        network.optimizer,
        environment(),
        plan,
        step_ms,
        best,
        mean_ratio(paired_ratios(samples, TORCH, FASTMODEL)),
        mean_ratio(paired_ratios(samples, best, FASTMODEL)),
        steps,
        samples,
    )


def _window(run: Callable, steps: int) -> Callable:
    def window() -> None:
        for _ in range(steps):
            run()

    return window


def main() -> None:
    """Measure the networks that are named, or all, and write a file for each."""
    known = {network.name: network for network in NETWORKS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=", ".join(known))
    parser.add_argument("--out", type=Path, default=Path("reports/zoo"))
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--budget-s", type=float, default=60.0)
    options = parser.parse_args()
    unknown = set(options.names) - set(known)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or known:
        found = measure(known[name], options.pairs, options.budget_s)
        (options.out / f"{name}.json").write_bytes(ADAPTER.dump_json(found, indent=1) + b"\n")
        print(
            f"{name:18} {found.step_ms[TORCH]:8.2f} ms  {_text(found.ratio)} to torch, "
            f"{_text(found.ratio_to_best)} to {found.best_torch}; {found.plan.verdict}",
            file=sys.stderr,
            flush=True,
        )


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    main()
