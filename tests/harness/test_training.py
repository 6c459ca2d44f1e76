"""Training runs: same batches, honest sums, schedules, time to accuracy."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastmodel.harness import training
from fastmodel.harness.records import Epoch
from fastmodel.harness.workloads import Split, default_arms


def train(blobs, options, index=0):
    loop = default_arms(blobs)[index].build(blobs, options)
    return loop, list(training.train(loop, blobs, options))


def test_training_learns_and_says_so(blobs, options, stand_ins):
    options = dataclasses.replace(options, epochs=8)
    _, epochs = train(blobs, options)
    assert [epoch.epoch for epoch in epochs] == list(range(1, 9))
    assert epochs[-1].train_loss < 0.5 * epochs[0].train_loss
    assert epochs[-1].validation_accuracy == 1.0
    assert epochs[-1].elapsed_train_time_s == pytest.approx(sum(e.train_time_s for e in epochs))
    assert all(epoch.evaluation_time_s > 0 for epoch in epochs)


def test_same_seed_same_run_other_seed_other_run(blobs, options, stand_ins):
    def losses(options):
        return [epoch.train_loss for epoch in train(blobs, options)[1]]

    assert losses(options) == losses(options)
    assert losses(options) != losses(dataclasses.replace(options, seed=1))


def test_arms_of_equal_numbers_train_alike(blobs, options, stand_ins):
    eager = [epoch.train_loss for epoch in train(blobs, options, 0)[1]]
    fused = [epoch.train_loss for epoch in train(blobs, options, 1)[1]]
    # Two epochs of float32 steps; dropout masks and batches are the same.
    assert eager == pytest.approx(fused, rel=1e-4)


def test_loss_of_an_epoch_weighs_a_short_last_batch_by_its_size(blobs, options):
    split = blobs.train.head(10)
    loop = default_arms(blobs)[0].build(blobs, options)
    values = iter([1.0, 4.0])

    def step(inputs, targets):
        loop.optimizer.step()
        return torch.tensor(next(values))

    loop.step = step
    blobs.train = split
    epoch = next(iter(training.train(loop, blobs, options)))
    assert epoch.train_loss == pytest.approx((8 * 1.0 + 2 * 4.0) / 10)


def test_evaluation_leaves_weights_and_mode_alone(blobs, options):
    loop = default_arms(blobs)[0].build(blobs, options)
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    loop.model.train()
    loss, accuracy = training.evaluate(loop, blobs.validation)
    assert loop.model.training
    assert all(torch.equal(before[k], v) for k, v in loop.model.state_dict().items())
    loop.model.eval()
    outputs = loop.model(blobs.validation.inputs)
    expected = torch.nn.functional.cross_entropy(outputs, blobs.validation.targets)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    hits = (outputs.argmax(1) == blobs.validation.targets).float().mean()
    assert accuracy == pytest.approx(hits.item())


def test_evaluation_weighs_batches_by_size(blobs, options, monkeypatch):
    loop = default_arms(blobs)[0].build(blobs, options)
    whole = training.evaluate(loop, blobs.train.head(10))
    monkeypatch.setattr(training, "_EVALUATION_BATCH_SIZE", 4)
    assert training.evaluate(loop, blobs.train.head(10)) == pytest.approx(whole, rel=1e-5)


def test_class_probabilities_count_by_the_likeliest(blobs, options):
    loop = default_arms(blobs)[0].build(blobs, options)
    probabilities = torch.nn.functional.one_hot(blobs.validation.targets, 4).float()
    split = Split(blobs.validation.inputs, probabilities)
    assert training.evaluate(loop, split)[1] == training.evaluate(loop, blobs.validation)[1]


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("none", [1e-2] * 6),
        ("step", [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4]),
        ("cosine", [1e-2, 9.33e-3, 7.5e-3, 5e-3, 2.5e-3, 6.7e-4]),
    ],
)
def test_schedules(blobs, options, schedule, rates):
    options = dataclasses.replace(options, epochs=6, schedule=schedule)
    _, epochs = train(blobs, options)
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates, rel=1e-2)


def test_divergence_is_none_not_nan(blobs, options):
    loop = default_arms(blobs)[0].build(blobs, options)
    with torch.no_grad():
        loop.model[0].weight.fill_(float("inf"))
    epoch = next(iter(training.train(loop, blobs, options)))
    assert epoch.train_loss is None and epoch.validation_loss is None


def epoch_at(number: int, accuracy: float) -> Epoch:
    return Epoch(number, 1.0, 1.0, accuracy, 2.0, 0.5, 2.0 * number, 1e-3)


def test_time_to_accuracy_is_the_first_epoch_that_reached_it():
    epochs = [epoch_at(1, 0.97), epoch_at(2, 0.98), epoch_at(3, 0.979)]
    assert training.time_to_accuracy(epochs) == {"0.98": 4.0, "0.99": None}


def test_every_epoch_shuffles_anew(blobs, options):
    loop = default_arms(blobs)[0].build(blobs, options)
    step, seen = loop.step, []

    def noting(inputs, targets):
        seen.append(inputs.sum().item())
        return step(inputs, targets)

    loop.step = noting
    list(training.train(loop, blobs, options))
    first, second = seen[:8], seen[8:]
    assert len(second) == 8
    assert first != second
