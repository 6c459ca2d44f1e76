"""Protocol, arms, registry and the built-in workload."""

from __future__ import annotations

import textwrap

import pytest
import torch
from support.recorded_graph import RecordedGraph
from torch import nn

import fastmodel as fm
from fastmodel import capture
from fastmodel.errors import DataError, InputError
from fastmodel.harness.workloads import (
    Optimizer,
    Options,
    Split,
    default_arms,
    endless_batches,
    epoch_batches,
    registry,
)
from fastmodel.harness.workloads.mnist_cnn import MnistCnn
from fastmodel.harness.workloads.protocol import take


def numbered(count: int) -> Split:
    return Split(torch.arange(count).float(), torch.arange(count))


def order(split: Split, seed: int, epoch: int) -> list[int]:
    return torch.cat([targets for _, targets in epoch_batches(split, 4, seed, epoch)]).tolist()


def test_an_epoch_visits_every_sample_once_and_keeps_pairs_together():
    seen = []
    for inputs, targets in epoch_batches(numbered(10), 4, seed=0, epoch=0):
        assert torch.equal(inputs.long(), targets)
        seen.append(targets)
    assert [len(batch) for batch in seen] == [4, 4, 2]
    assert sorted(torch.cat(seen).tolist()) == list(range(10))


def test_order_depends_on_seed_and_epoch_alone():
    split = numbered(50)
    first = order(split, 0, 0)
    torch.rand(7)
    assert order(split, 0, 0) == first
    assert order(split, 0, 1) != first
    assert order(split, 1, 0) != first


def test_batches_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    list(epoch_batches(numbered(9), 2, 0, 0))
    assert torch.equal(torch.rand(1), expected)


def test_endless_batches_are_full_and_go_on_into_the_next_epoch():
    batches = endless_batches(numbered(10), 4, seed=0)
    taken = [next(batches)[1] for _ in range(5)]
    assert {len(batch) for batch in taken} == {4}
    expected = next(epoch_batches(numbered(10), 4, 0, 1))[1]
    assert torch.equal(taken[2], expected)


def test_batches_keep_the_layout():
    split = Split(torch.rand(6, 3, 4, 4), torch.zeros(6)).to("cpu", torch.channels_last)
    inputs, _ = next(epoch_batches(split, 4, 0, 0))
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert not inputs.is_contiguous()


def test_arms_start_from_the_same_weights_and_end_generator_alike(blobs, options, stand_ins):
    states, draws = [], []
    for arm in default_arms(blobs):
        states.append(arm.build(blobs, options).model.state_dict())
        draws.append(torch.rand(1).item())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        for name, value in state.items():
            assert torch.equal(value, states[0][name])
    assert len(set(draws)) == 1


def test_arms_on_cuda(blobs):
    arms = {arm.name: arm for arm in default_arms(blobs, with_compile=True, device="cuda:0")}
    assert list(arms)[3:] == [
        *("cuda-graph", "compile", "compile-reduce-overhead", "compile-max-autotune"),
        "fastmodel",
    ]
    assert "fm.capture_step" in arms["fastmodel"].description
    assert "fm.capture_step" not in default_arms(blobs)[-1].description
    assert all(arms[name].is_isolated for name in arms if name.startswith("compile"))


def test_a_compiled_arm_has_its_mode(blobs, options, monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda m, **options: modes.append(options["mode"]) or m)
    for arm in default_arms(blobs, with_compile=True, device="cuda"):
        if arm.name.startswith("compile"):
            arm.build(blobs, options)
    assert modes == [None, "reduce-overhead", "max-autotune"]


def test_a_graphed_loop_steps_as_the_loop_does(blobs, options, monkeypatch):
    """Its eager step is the loop's own; over a recorded graph it is replayed from the fourth batch on."""
    monkeypatch.setattr(capture, "refusal_of", lambda *_: None)
    monkeypatch.setattr(capture, "CudaGraph", lambda device: RecordedGraph())
    plain = default_arms(blobs)[1].build(blobs, options)
    loop = default_arms(blobs)[1].build(blobs, options)
    loop.replay(blobs.train.head(8))
    for start in range(6):
        batch = blobs.train.inputs[start : start + 8], blobs.train.targets[start : start + 8]
        losses = []
        for each in (loop, plain):
            torch.manual_seed(start)  # of the dropout
            losses.append(each.step(*batch))
        torch.testing.assert_close(*losses)
    assert loop._train.replayed_steps == 3
    for a, b in zip(loop.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_arms_differ_as_they_say(blobs, options, stand_ins):
    arms = {arm.name: arm for arm in default_arms(blobs)}
    assert list(arms) == ["eager", "eager-fused", "channels_last", "fastmodel"]
    assert [name for name, arm in arms.items() if arm.is_optimized] == ["fastmodel"]
    loops = {name: arm.build(blobs, options) for name, arm in arms.items()}
    assert loops["eager"].optimizer.defaults["fused"] is None
    assert loops["eager-fused"].optimizer.defaults["fused"] is True
    assert loops["channels_last"].optimizer.defaults["fused"] is True
    assert loops["channels_last"].memory_format == torch.channels_last
    assert loops["eager"].optimizer.defaults["lr"] == 1e-2


def test_compile_is_an_arm_where_it_is_asked_for(blobs, options, monkeypatch):
    arms = {arm.name: arm for arm in default_arms(blobs, with_compile=True)}
    assert list(arms) == ["eager", "eager-fused", "channels_last", "compile", "fastmodel"]
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda it, **how: compiled.append((it, how)) or it)
    loop = arms["compile"].build(blobs, options)
    assert compiled == [(loop.model, {"dynamic": False, "mode": None})]
    assert loop.memory_format == torch.channels_last
    assert loop.optimizer.defaults["fused"] is True and not arms["compile"].is_optimized


def test_the_fastmodel_arm_is_built_from_fastmodels_parts(blobs, options, monkeypatch, stand_ins):
    calls = []

    class Loss(nn.CrossEntropyLoss):
        pass

    class Adam(torch.optim.Adam):
        pass

    def optimize(model, inputs, **options):
        calls.append((type(model), inputs[0].shape))
        torch.rand(5)  # a trial that draws random numbers
        return model

    monkeypatch.setattr(fm, "optimize", optimize)
    monkeypatch.setattr(fm.optim, "Adam", Adam)
    monkeypatch.setattr(fm.nn, "CrossEntropyLoss", Loss)
    arm = default_arms(blobs)[-1]
    loop = arm.build(blobs, options)
    assert calls == [(nn.Sequential, (8, 1, 8, 8))]
    assert type(loop.loss) is Loss and type(loop.optimizer) is Adam
    after_fastmodel = torch.rand(1)
    default_arms(blobs)[0].build(blobs, options)
    assert torch.equal(torch.rand(1), after_fastmodel)


def test_the_losss_arguments_reach_the_fastmodel_arm(blobs, options, stand_ins, monkeypatch):
    weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
    plain = nn.CrossEntropyLoss(weight, ignore_index=3, reduction="sum", label_smoothing=0.1)
    monkeypatch.setattr(type(blobs), "loss", lambda self: plain)
    loss = default_arms(blobs)[-1].build(blobs, options).loss
    assert torch.equal(loss.weight, weight)
    assert (loss.ignore_index, loss.reduction, loss.label_smoothing) == (3, "sum", 0.1)


def test_another_loss_stays(blobs, options, stand_ins, monkeypatch):
    plain = nn.MSELoss()
    monkeypatch.setattr(type(blobs), "loss", lambda self: plain)
    assert default_arms(blobs)[-1].build(blobs, options).loss is plain


def test_flat_samples_have_no_channels_last_arm_and_lbfgs_no_fused_one(blobs):
    blobs.train = Split(torch.rand(8, 3), torch.zeros(8))
    assert [arm.name for arm in default_arms(blobs)] == ["eager", "eager-fused", "fastmodel"]
    blobs.optimizer = lambda: Optimizer("Rprop")
    assert [arm.name for arm in default_arms(blobs)] == ["eager", "fastmodel"]


def test_an_unknown_optimizer_is_refused(blobs, options):
    blobs.optimizer = lambda: Optimizer("Adma")
    with pytest.raises(InputError, match=r"'Adma' is not in torch\.optim"):
        default_arms(blobs)[0].build(blobs, options)


def test_a_step_changes_the_weights_and_returns_a_detached_loss(blobs, options):
    loop = default_arms(blobs)[0].build(blobs, options)
    before = [p.detach().clone() for p in loop.model.parameters()]
    loss = loop.step(blobs.train.inputs, blobs.train.targets)
    assert not loss.requires_grad
    assert all(not torch.equal(a, b) for a, b in zip(before, loop.model.parameters(), strict=True))


def test_mnist_cnn_is_the_job_that_was_promised():
    workload = MnistCnn(Options())
    assert [len(s) for s in (workload.train, workload.validation, workload.test)] == [
        54_000,
        6_000,
        10_000,
    ]
    assert workload.train.inputs.shape[1:] == (1, 28, 28)
    assert workload.train.inputs.min() == 0.0 and workload.train.inputs.max() == 1.0
    # Mean of all 60,000 training images; the training split's lies within a hundredth of it.
    assert workload.train.inputs.mean().item() == pytest.approx(0.1307, abs=1e-3)
    assert workload.validation.targets[:5].tolist() != workload.train.targets[:5].tolist()
    model = workload.model()
    assert sum(p.numel() for p in model.parameters()) == 225_034
    assert model(workload.test.inputs[:2]).shape == (2, 10)
    assert workload.optimizer() == Optimizer("Adam", {"lr": 1e-3})


def test_data_that_is_not_there_is_said(tmp_path):
    with pytest.raises(DataError, match="is missing"):
        registry.make("mnist-cnn", Options(data=tmp_path))


GOOD = """
    import torch
    from torch import nn
    from fastmodel.harness.workloads import Optimizer, Split

    class Mine:
        name, description = "mine", "synthetic"
        train = validation = test = Split(torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64))
        model = staticmethod(lambda: nn.Linear(2, 2))
        loss = staticmethod(nn.CrossEntropyLoss)
        optimizer = staticmethod(lambda: Optimizer("SGD", {"lr": 0.1}))

    def make_workload(options):
        return Mine()

    def lacking(options):
        return object()

    def failing(options):
        raise KeyError("no\\nsuch file")

    def empty(options):
        mine = Mine()
        mine.test = Split(torch.zeros(0, 2), torch.zeros(0))
        return mine

    number = 3
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(textwrap.dedent(GOOD))
    return path


def test_a_users_file_needs_no_inheritance(own_file):
    workload = registry.make(f"{own_file}:make_workload", Options(batch_size=4))
    assert workload.name == "mine"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("lacking", "lacks name, description, train"),
        ("failing", "raised KeyError"),
        ("empty", "test of .* must be a Split"),
        ("number", "has no function 'number'"),
        ("absent", "has no function 'absent'"),
    ],
)
def test_an_unusable_function_is_said_in_one_line(own_file, function, message):
    with pytest.raises(InputError, match=message) as caught:
        registry.make(f"{own_file}:{function}", Options(batch_size=4))
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_training_set_is_refused(own_file):
    with pytest.raises(InputError, match="larger than the training set of 4"):
        registry.make(f"{own_file}:make_workload", Options(batch_size=5))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnist", "unknown workload 'mnist'; use one of: mnist-cnn"),
        ("absent.py:make", "does not exist"),
        ("absent.py", "unknown workload"),
        ("", "unknown workload"),
    ],
)
def test_an_unknown_workload_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        registry.make(name, Options())


def test_a_file_that_does_not_import_is_said(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import does_not_exist_anywhere")
    with pytest.raises(InputError, match="could not be imported: ModuleNotFoundError"):
        registry.make(f"{path}:make_workload", Options())


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist-cnn", "mnist-cnn"), ("a/b/my loop.py:make", "my-loop")]
)
def test_reports_have_a_folder_of_their_own(name, folder):
    assert registry.folder_name(name) == folder


@pytest.mark.parametrize(
    "samples",
    [
        torch.randint(0, 10, (9,)),
        torch.randn(9, 4),
        torch.randn(9, 3, 5, 4),
        torch.randn(9, 3, 5, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(9, 1, 5, 4).contiguous(memory_format=torch.channels_last),
        torch.randn(9, 3, 5, 8)[..., ::2],
        torch.randn(3, 9, 5, 4).transpose(0, 1),
    ],
    ids=["flat", "rows", "images", "channels_last", "grey", "strided", "transposed"],
)
def test_taking_samples_is_indexing(samples):
    index = torch.tensor([7, 0, 3, 3, 8])
    taken, expected = take(samples, index), samples[index]
    assert torch.equal(taken, expected)
    assert taken.stride() == expected.stride()
