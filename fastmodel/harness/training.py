"""Training runs: the epochs of one arm, timed, with validation after each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from fastmodel.harness.records import Epoch
from fastmodel.harness.workloads.arms import Loop
from fastmodel.harness.workloads.protocol import Options, Split, Workload, epoch_batches
from fastmodel.timing import now_s

_EVALUATION_BATCH_SIZE = 1_000
TARGET_ACCURACIES = (0.98, 0.99)


def train(loop: Loop, workload: Workload, options: Options) -> Iterator[Epoch]:
    """Train `loop` for `options.epochs` epochs and yield each as it ends.

    The order of the samples and the seed of dropout depend on `options.seed` alone, so every arm
    meets the same batches. Validation is not part of the training time.
    """
    torch.manual_seed(options.seed)
    train_split, validation_split = loop.place(workload.train), loop.place(workload.validation)
    schedule = _schedule(loop.optimizer, options)
    elapsed_s = 0.0
    for epoch in range(options.epochs):
        learning_rate = float(loop.optimizer.param_groups[0]["lr"])
        start_s = now_s(options.device)
        train_loss = _train_epoch(loop, train_split, options, epoch)
        trained_s = now_s(options.device)
        validation_loss, accuracy = evaluate(loop, validation_split)
        evaluated_s = now_s(options.device)
        elapsed_s += trained_s - start_s
        schedule.step()
        yield Epoch(
            epoch=epoch + 1,
            train_loss=_finite(train_loss),
            validation_loss=_finite(validation_loss),
            validation_accuracy=accuracy,
            train_time_s=trained_s - start_s,
            evaluation_time_s=evaluated_s - trained_s,
            elapsed_train_time_s=elapsed_s,
            learning_rate=learning_rate,
        )


def evaluate(loop: Loop, split: Split) -> tuple[float, float]:
    """Mean loss and the share of samples whose largest output is the target class."""
    loss_sum, correct = 0.0, 0
    loop.model.eval()
    with torch.inference_mode():
        batches = zip(
            split.inputs.split(_EVALUATION_BATCH_SIZE),
            split.targets.split(_EVALUATION_BATCH_SIZE),
            strict=True,
        )
        for inputs, targets in batches:
            outputs = loop.model(inputs)
            loss_sum += loop.loss(outputs, targets).item() * len(inputs)
            # Class probabilities as targets: the likeliest class counts.
            classes = targets.argmax(1) if targets.is_floating_point() else targets
            correct += int((outputs.argmax(1) == classes).sum())
    loop.model.train()
    return loss_sum / len(split), correct / len(split)


def time_to_accuracy(epochs: Sequence[Epoch]) -> dict[str, float | None]:
    """Training seconds at the end of the first epoch that reached each target; None if none did."""
    return {
        f"{target:.2f}": next(
            (e.elapsed_train_time_s for e in epochs if e.validation_accuracy >= target), None
        )
        for target in TARGET_ACCURACIES
    }


def _train_epoch(loop: Loop, split: Split, options: Options, epoch: int) -> float:
    loop.model.train()
    loss_sum = torch.zeros((), device=options.device)
    for inputs, targets in epoch_batches(split, options.batch_size, options.seed, epoch):
        loss_sum += loop.step(inputs, targets) * len(inputs)
    return loss_sum.item() / len(split)


def _schedule(
    optimizer: torch.optim.Optimizer, options: Options
) -> torch.optim.lr_scheduler.LRScheduler:
    """One step an epoch: constant, cosine to 0, or a tenth after each third of the run."""
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs)
    if options.schedule == "step":
        third = max(1, options.epochs // 3)
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=third, gamma=0.1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
