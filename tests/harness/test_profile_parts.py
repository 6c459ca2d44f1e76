"""Where a step's time goes: the classes, and that the parts add up."""

from __future__ import annotations

import pytest

from fastmodel.harness.measure import Runner
from fastmodel.harness.profile import arm
from fastmodel.harness.profile.kinds import classify
from fastmodel.harness.workloads import default_arms


@pytest.mark.parametrize(
    ("event", "label"),
    [
        ("aten::conv2d", "conv forward"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "conv backward"),
        ("aten::relu", "activation forward"),
        ("autograd::engine::evaluate_function: ReluBackward0", "activation backward"),
        ("aten::max_pool2d", "pool forward"),
        ("autograd::engine::evaluate_function: MaxPool2DWithIndicesBackward0", "pool backward"),
        ("aten::linear", "linear forward"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "linear backward"),
        ("aten::dropout", "dropout forward"),
        ("aten::cross_entropy_loss", "loss forward"),
        ("autograd::engine::evaluate_function: NllLossBackward0", "loss backward"),
        ("autograd::engine::evaluate_function: LogSoftmaxBackward0", "loss backward"),
        ("Optimizer.step#Adam.step", "optimizer"),
        ("Optimizer.zero_grad#Adam.zero_grad", "optimizer"),
        ("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", "optimizer"),
        ("fastmodel::conv_relu_maxpool", "conv+ReLU+pool forward"),
        ("fastmodel::conv_relu_maxpool_backward", "conv+ReLU+pool backward"),
        (
            "autograd::engine::evaluate_function: "
            "GeneratedBackwardFor_fastmodel_conv_relu_maxpool_defaultBackward",
            "conv+ReLU+pool backward",
        ),
        ("fastmodel::conv_relu", "conv+ReLU forward"),
        ("fastmodel::linear_relu", "linear+ReLU forward"),
        ("fastmodel::cross_entropy", "loss forward"),
        ("aten::index", "batches"),
        ("aten::view", None),
        ("fastmodel.profiled_step", None),
    ],
)
def test_events_have_their_class(event, label):
    assert classify(event) == label


@pytest.fixture
def parts(blobs, options, stand_ins):
    runner = Runner(default_arms(blobs)[0], blobs, options)
    runner.run(2)
    return arm.profile(runner, None, steps=3).parts


def test_the_parts_add_up_to_the_step(parts):
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    step_s = sum(part.time_s for part in parts)
    assert all(part.share == pytest.approx(part.time_s / step_s) for part in parts)
    assert [part.time_s for part in parts] == sorted((p.time_s for p in parts), reverse=True)


def test_every_part_of_the_model_is_there(parts):
    names = {part.name for part in parts}
    assert {
        "conv forward", "conv backward", "pool forward", "pool backward", "linear forward",
        "linear backward", "activation forward", "activation backward", "loss forward",
        "loss backward", "dropout forward", "optimizer", "batches", "other",
    } <= names  # fmt: skip


def test_an_addmm_inside_an_optimizer_step_is_optimizer():
    from fastmodel.harness.profile import parts as module

    class Event:
        def __init__(self, name, own_us, *children):
            self.name, self.self_cpu_time_total, self.cpu_children = name, own_us, children

    times: dict[str, float] = module.defaultdict(float)
    tree = Event("step", 5.0, Event("Optimizer.step#SGD.step", 2.0, Event("aten::addmm", 3.0)))
    module._add(tree, None, times, "self_cpu_time_total")
    assert times == {"other": 5.0, "optimizer": 5.0}
