"""What a step does beyond the plain one, alike in every arm."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from fastmodel.errors import InputError
from fastmodel.harness import gate, training
from fastmodel.harness.rewind import Rewind
from fastmodel.harness.workloads import Optimizer, Recipe, default_arms
from fastmodel.harness.workloads.arms import Loop, torch_loop
from fastmodel.harness.workloads.recipe import recipe_of

ARMS = ["eager", "eager-fused", "channels_last", "fastmodel"]


def arm(blobs, name):
    return next(arm for arm in default_arms(blobs) if arm.name == name)


def loop_over(model: nn.Module, recipe: Recipe, lr: float = 0.1) -> Loop:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return Loop(model, nn.MSELoss(), optimizer, torch.contiguous_format, "cpu", recipe)


def batch(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(samples, 6), draw(samples, 3)


def test_the_rate_warms_up_falls_along_a_cosine_and_stays():
    recipe = Recipe(warmup_steps=4, total_steps=14, final_share=0.2)
    assert [recipe.rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert recipe.rate(4) == pytest.approx(1.0)
    assert recipe.rate(9) == pytest.approx(0.6)  # half way down
    assert recipe.rate(6) == pytest.approx(0.2 + 0.8 * 0.904508, rel=1e-6)
    assert [recipe.rate(step) for step in (14, 15, 1000)] == pytest.approx([0.2] * 3)
    assert [Recipe().rate(step) for step in (0, 10)] == [1.0, 1.0]
    assert Recipe().schedule(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)) is None


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_steps_at_the_rate_of_its_step(blobs, options, name):
    blobs.recipe = Recipe(warmup_steps=2, total_steps=6)
    loop = arm(blobs, name).build(blobs, options)
    seen = []
    loop.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"])
    )
    for _ in range(8):
        loop.step(*(t[:8] for t in (blobs.train.inputs, blobs.train.targets)))
    assert seen == pytest.approx([1e-2 * blobs.recipe.rate(i) for i in range(8)])


def test_a_rate_by_the_step_takes_the_place_of_one_by_the_epoch(blobs, options):
    blobs.recipe = Recipe(warmup_steps=1, total_steps=16)
    loop = arm(blobs, "eager").build(blobs, options)
    rates = [epoch.learning_rate for epoch in training.train(loop, blobs, options)]
    assert rates == pytest.approx([1e-2, 1e-2 * blobs.recipe.rate(8)])
    with pytest.raises(InputError, match="schedule of its own"):
        recipe_of(blobs, dataclasses.replace(options, schedule="cosine"))


@pytest.mark.parametrize(("samples", "parts"), [(8, 1), (8, 4), (10, 4), (5, 4), (7, 7)])
def test_parts_add_up_to_the_batch(samples, parts):
    torch.manual_seed(0)
    model = nn.Linear(6, 3).double()
    whole, cut = (
        loop_over(copy.deepcopy(model), Recipe(accumulation=n, max_grad_norm=0.3))
        for n in (1, parts)
    )
    found = [loop.step(*batch(samples)) for loop in (whole, cut)]
    # float64 sums of a few terms, in another order.
    torch.testing.assert_close(found[1].double(), found[0], rtol=1e-6, atol=0)
    for a, b in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_each_part_is_a_forward_of_its_own():
    loop = loop_over(nn.Linear(6, 3).double(), Recipe(accumulation=4))
    sizes = []
    loop.model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    loop.step(*batch(10))
    assert sizes == [3, 3, 3, 1]


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_clips(blobs, options, name):
    """SGD moves by the learning rate times the gradient, whose norm is the most that is allowed."""
    blobs.optimizer = lambda: Optimizer("SGD", {"lr": 1.0})
    blobs.recipe = Recipe(max_grad_norm=1e-3)
    loop = arm(blobs, name).build(blobs, options)
    before = [p.detach().clone() for p in loop.model.parameters()]
    loop.step(*(t[:8] for t in (blobs.train.inputs, blobs.train.targets)))
    moved = [p.detach() - old for p, old in zip(loop.model.parameters(), before, strict=True)]
    # clip_grad_norm_ adds 1e-6 to the norm it divides by; weights near 1 round what they move by 6e-8 each.
    norm = torch.cat([m.flatten() for m in moved]).double().norm().item()
    assert norm == pytest.approx(1e-3, rel=2e-3)


def test_the_gate_sees_an_arm_that_does_not_clip(blobs, options, monkeypatch):
    blobs.recipe = Recipe(max_grad_norm=1e-3)
    blobs.optimizer = lambda: Optimizer("SGD", {"lr": 0.1})
    arms = arm(blobs, "eager"), arm(blobs, "fastmodel")
    assert gate.check(blobs, options, *arms).passed

    class Careless(Loop):
        def __post_init__(self):
            super().__post_init__()
            self.optimizer.max_grad_norm = None

    def build(workload, options):
        return Careless(**{f.name: getattr(made, f.name) for f in dataclasses.fields(Loop)})

    made = arms[1].build(blobs, options)
    found = gate.check(blobs, options, arms[0], dataclasses.replace(arms[1], build=build))
    assert {c.name for c in found.checks if not c.passed} == {
        f"{name} after 3 steps" for name, _ in blobs.model().named_parameters()
    }


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_runs_under_autocast(blobs, options, name):
    loop = arm(blobs, name).build(blobs, dataclasses.replace(options, autocast="bfloat16"))
    outputs, loss = loop.forward(blobs.train.inputs, blobs.train.targets)
    assert outputs.dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in loop.model.parameters())


def test_the_gate_judges_autocast_by_its_own_precision(blobs, options):
    options = dataclasses.replace(options, autocast="bfloat16")
    found = gate.check(blobs, options, arm(blobs, "eager"), arm(blobs, "fastmodel"))
    assert found.passed
    bounds = {check.name: check.bound for check in found.checks}
    # bfloat16 keeps 8 bits, 7 modules round: far above float32's bounds, far below the values.
    assert 1e-3 < bounds["output, training"] < 0.5


def test_the_command_line_has_the_last_word(blobs, options):
    blobs.recipe = Recipe(accumulation=2, autocast=torch.bfloat16, max_grad_norm=1.0)
    asked = dataclasses.replace(options, accumulation=4, autocast="none")
    assert recipe_of(blobs, asked) == Recipe(accumulation=4, max_grad_norm=1.0)
    assert recipe_of(blobs, options) == blobs.recipe
    with pytest.raises(InputError, match="8 samples cannot be cut into 9 parts"):
        recipe_of(blobs, dataclasses.replace(options, accumulation=9))


def test_a_recipe_in_words():
    assert Recipe().describe() == ""
    recipe = Recipe(4, 1.0, torch.bfloat16, 10, 200)
    assert recipe.describe() == (
        "4 micro-batches, autocast to bfloat16, gradient norm clipped to 1, 10 steps of warm-up,"
        " cosine until 200"
    )


def test_the_schedule_is_rewound_too(blobs, options):
    blobs.recipe = Recipe(warmup_steps=2, total_steps=6)
    loop = torch_loop(blobs, options, blobs.model(), blobs.loss())
    samples = [t[:8] for t in (blobs.train.inputs, blobs.train.targets)]
    loop.step(*samples)
    kept = Rewind(loop)
    for _ in range(2):
        for expected in (1, 2, 3):
            assert loop.schedule.last_epoch == expected
            lr = loop.optimizer.param_groups[0]["lr"]
            assert lr == pytest.approx(1e-2 * blobs.recipe.rate(expected))
            loop.step(*samples)
        kept.back()


def test_a_run_that_goes_on_goes_on_at_its_rate(blobs, options, tmp_path):
    blobs.recipe = Recipe(warmup_steps=2, total_steps=16)
    whole = arm(blobs, "eager").build(blobs, options)
    expected = list(training.train(whole, blobs, options))
    path = tmp_path / "state"
    short = dataclasses.replace(options, epochs=1)
    list(training.train(arm(blobs, "eager").build(blobs, short), blobs, short, path))
    (last,) = training.train(arm(blobs, "eager").build(blobs, options), blobs, options, path)
    assert last.epoch == 2
    assert last.learning_rate == pytest.approx(expected[1].learning_rate)
    assert last.train_loss == pytest.approx(expected[1].train_loss, rel=1e-6)
