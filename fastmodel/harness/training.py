"""Training runs: the epochs of one arm, timed, with validation after each, and the test at the end."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fastmodel.errors import StorageError
from fastmodel.harness.records import Epoch
from fastmodel.harness.telemetry import Meter, Reading, Sampler, energy_sources, sources_for
from fastmodel.harness.workloads.arms import Arm, Loop
from fastmodel.harness.workloads.protocol import Options, Split, Workload, epoch_batches
from fastmodel.harness.workloads.recipe import Schedule
from fastmodel.timing import now_s

_EVALUATION_BATCH_SIZE = 1_000
_EVALUATION_TARGETS = 16_384
"""At most, in a batch of samples that have many each; activations of all are held at once."""
_TELEMETRY_PERIOD_S = 0.5
TARGET_ACCURACIES = (0.98, 0.99)
NOT_METERED = "the run was resumed; its first part was metered by a process that is gone"


@dataclass(frozen=True)
class Untrained:
    """Validation before the first step."""

    validation_loss: float | None


@dataclass(frozen=True)
class Test:
    """The one look at the test set."""

    __test__ = False  # the name is no invitation to pytest

    loss: float | None
    accuracy: float


def training_run(
    arm: Arm, workload: Workload, options: Options, checkpoint: Path | None = None
) -> Iterator[Untrained | Epoch | Test | Reading]:
    """Build `arm` and train it: validation before it, each epoch as it ends, the test, what the run used.

    With `checkpoint` the state is saved there after every epoch, taken up from there if it is there,
    and removed at the end.
    """
    sources, reason = energy_sources(options.device)
    sampled, missing = sources_for(options.device)
    with (
        Meter(options.device, sources, reason) as meter,
        Sampler(sampled, _TELEMETRY_PERIOD_S, missing) as sampler,
    ):
        loop = arm.build(workload, options)
        is_resumed = checkpoint is not None and checkpoint.exists()
        if not is_resumed:
            yield Untrained(_finite(evaluate(loop, loop.place(workload.validation))[0]))
        yield from train(loop, workload, options, checkpoint)
    assert meter.reading is not None  # the meter has ended
    loss, accuracy = evaluate(loop, loop.place(workload.test))
    yield Test(_finite(loss), accuracy)
    if is_resumed:
        unknown = dict.fromkeys(("peak_memory_bytes", "energy_j"), NOT_METERED)
        reading = Reading(None, None, None, meter.reading.missing | unknown)
    else:
        reading = meter.reading
    yield replace(reading, telemetry=sampler.telemetry)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)


def train(
    loop: Loop, workload: Workload, options: Options, checkpoint: Path | None = None
) -> Iterator[Epoch]:
    """Train `loop` for `options.epochs` epochs and yield each as it ends.

    The order of the samples and the seed of dropout depend on `options.seed` alone, so every arm
    meets the same batches. Validation is not part of the training time.
    """
    torch.manual_seed(options.seed)
    train_split, validation_split = loop.place(workload.train), loop.place(workload.validation)
    by_epoch = None if loop.schedule is not None else _schedule(loop.optimizer, options)
    schedule = loop.schedule or by_epoch
    assert schedule is not None
    done, elapsed_s = 0, 0.0
    if checkpoint is not None and checkpoint.exists():
        done, elapsed_s = _restore(checkpoint, loop, schedule)
    for epoch in range(done, options.epochs):
        learning_rate = float(loop.optimizer.param_groups[0]["lr"])
        start_s = now_s(options.device)
        train_loss = _train_epoch(loop, train_split, options, epoch)
        trained_s = now_s(options.device)
        validation_loss, accuracy = evaluate(loop, validation_split)
        evaluated_s = now_s(options.device)
        elapsed_s += trained_s - start_s
        if by_epoch is not None:
            by_epoch.step()
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
        # After the epoch was taken note of: a run that is killed in between trains it once more.
        if checkpoint is not None:
            _save(checkpoint, loop, schedule, epoch + 1, elapsed_s)


def evaluate(loop: Loop, split: Split) -> tuple[float, float]:
    """Mean loss and the share of targets whose class has the largest output."""
    loss_sum, correct = 0.0, 0.0
    loop.model.eval()
    size = _evaluation_batch_size(split)
    with torch.inference_mode():
        for inputs, targets in zip(
            split.inputs.split(size), split.targets.split(size), strict=True
        ):
            outputs, loss = loop.forward(inputs, targets)
            loss_sum += loss.item() * len(inputs)
            hits = outputs.argmax(loop.class_dim) == _classes(targets)
            correct += hits.double().mean().item() * len(inputs)
    loop.model.train()
    return loss_sum / len(split), correct / len(split)


def _classes(targets: torch.Tensor) -> torch.Tensor:
    """Class indices; of class probabilities the likeliest."""
    return targets.argmax(1) if targets.is_floating_point() else targets


def _evaluation_batch_size(split: Split) -> int:
    targets = 1 if split.targets.is_floating_point() else split.targets[0].numel()
    return max(1, min(_EVALUATION_BATCH_SIZE, _EVALUATION_TARGETS // max(1, targets)))


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


def _schedule(optimizer: torch.optim.Optimizer, options: Options) -> Schedule:
    """One step an epoch: constant, cosine to 0, or a tenth after each third of the run."""
    if options.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=options.epochs)
    if options.schedule == "step":
        third = max(1, options.epochs // 3)
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=third, gamma=0.1)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def _save(path: Path, loop: Loop, schedule: Schedule, epochs: int, elapsed_s: float) -> None:
    """The whole state of a run, so that it goes on as if nothing had happened."""
    state: dict[str, Any] = {
        "epochs": epochs,
        "elapsed_s": elapsed_s,
        "model": loop.model.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": torch.get_rng_state(),
    }
    if torch.device(loop.device).type == "cuda":
        state["cuda_generator"] = torch.cuda.get_rng_state(loop.device)
    temporary = path.with_suffix(".part")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch.save makes a RuntimeError of a full disk
        with contextlib.suppress(OSError):
            temporary.unlink()
        cause = error if isinstance(error, OSError) else OSError(str(error))
        raise StorageError.of(path, cause) from error


def _restore(path: Path, loop: Loop, schedule: Schedule) -> tuple[int, float]:
    """Epochs done and their training seconds; `loop` and `schedule` are set to that state."""
    state = torch.load(path, weights_only=True)
    loop.model.load_state_dict(state["model"])
    loop.optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["generator"])
    if "cuda_generator" in state:
        torch.cuda.set_rng_state(state["cuda_generator"], loop.device)
    return int(state["epochs"]), float(state["elapsed_s"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
