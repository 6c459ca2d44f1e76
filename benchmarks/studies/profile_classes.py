"""Do the classes of a profiled step add up to the step, by a clock of its own? Five loops of different shape.

    python benchmarks/studies/profile_classes.py [--out FILE]

A plain loop, a DataLoader with 2 workers, gradient accumulation, an LBFGS closure, and two optimizers; the
steps are found through the optimizers' hooks. The clock is read around the active steps, the classes come
from the trace. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastmodel as fm
from fastmodel.harness.profile import Schedule

SCHEDULE = Schedule(wait=6, timed=10, active=10, control=0)
STEPS = 32


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 10),
    )


def batch(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(size, 1, 28, 28), torch.randint(0, 10, (size,))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches, parts: int = 1) -> None:
    for x, y in batches:
        optimizer.zero_grad()
        for a, b in zip(x.chunk(parts), y.chunk(parts), strict=True):
            (F.cross_entropy(model(a), b) / parts).backward()
        optimizer.step()


def plain() -> None:
    model = cnn()
    train(model, torch.optim.Adam(model.parameters()), [batch()] * STEPS)


def workers() -> None:
    model = cnn()
    data = DataLoader(TensorDataset(*batch(64 * STEPS)), batch_size=64, num_workers=2)
    train(model, torch.optim.Adam(model.parameters()), data)


def accumulation() -> None:
    model = cnn()
    train(model, torch.optim.SGD(model.parameters(), lr=0.1), [batch(128)] * STEPS, parts=4)


def closure() -> None:
    model, (x, y) = cnn(), batch()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=4)

    def evaluate() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(STEPS):
        optimizer.step(evaluate)


def two_optimizers() -> None:
    models, (x, y) = [cnn(), cnn()], batch()
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    for _ in range(STEPS):
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, [(x, y)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    for loop in (plain, workers, accumulation, closure, two_optimizers):
        torch.manual_seed(0)
        with fm.profile(SCHEDULE, by_optimizer=True, has_trials=False) as p:
            loop()
        report = p.report
        total_s = sum(part.time_s for part in report.classes)
        rows.append(
            {
                "loop": loop.__name__,
                "step_boundary": report.step_boundary,
                "step_by_the_clock_ms": 1e3 * report.profiled_step_s,
                "classes_together_ms": 1e3 * total_s,
                "difference_percent": 100 * (total_s / report.profiled_step_s - 1),
                "classes_percent": {part.name: 100 * part.share for part in report.classes},
            }
        )
        row = rows[-1]
        print(
            f"{row['loop']:15} step {row['step_by_the_clock_ms']:8.3f} ms, classes "
            f"{row['classes_together_ms']:8.3f} ms, {row['difference_percent']:+.2f} %"
        )
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
