"""The advice: from events of our own making, each gain worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fastmodel.harness.profile import advice_trials, gains, trials
from fastmodel.harness.profile.advice import Facts, advice, together
from fastmodel.harness.profile.candidates import Site, sites
from fastmodel.harness.profile.ceilings import (
    attainable_gflop_per_s,
    datasheet,
    devices,
    measure,
    peak_gflop_per_s,
)
from fastmodel.harness.profile.chains import Chain
from fastmodel.harness.profile.losses import LossCall
from fastmodel.harness.profile.modelled import Look
from fastmodel.harness.profile.phases import RootCall
from fastmodel.harness.profile.trace import Event, Trace, nest
from fastmodel.harness.profile.trials import Tried
from fastmodel.harness.profile.whole_step import WholeStep
from fastmodel.harness.profile_records import SyncPoint
from fastmodel.harness.roofline_records import Ceilings
from fastmodel.timing import Estimate

X, W = (64, 32, 13, 13), (64, 32, 3, 3)
SITE = Site("conv", "Conv2d + ReLU + MaxPool2d", "ConvReLUMaxPool2d", X, W, False, "float32")
CHAIN = Chain("conv", (X, W, (64,)), {"anchor": 30.0, "relu": 10.0, "pool": 20.0})


def trace(*events, device=()):
    nest(events)
    on_device = [Event(name, a, b, is_device=True) for name, a, b in device]
    mark = Event("ProfilerStep#1", 0, 100, 1, is_range=True)
    return Trace([mark, *events, *on_device], [(0, 100)])


def facts(*, of=None, step_s=50e-6, **more):
    """A profiled step of 100 us that takes half of that without the profiler."""
    found = {
        "chains": [],
        "sites": [],
        "optimizers": [],
        "roots": [],
        "sync_points": [],
        "loader_s": 0.0,
        "control_s": None,
    }
    return Facts(step_s=step_s, trace=of or trace(), **(found | more))


def only(found):
    (item,) = advice(found)
    return item


def test_a_fused_site_saves_its_share_by_the_measured_ratio():
    ratio = gains.gain("conv_relu_maxpool", (X, W), "torch").ratio
    found = facts(chains=[CHAIN, CHAIN], sites=[SITE])
    item = only(found)
    # 120 of 100 us would be nonsense in a step; two chains of 60 in one step of 100.
    assert item.gain_s == pytest.approx(min(1.2 * (1 - 1 / ratio), 0.99) * 50e-6)
    item = only(facts(chains=[CHAIN], sites=[SITE]))
    assert item.gain_s == pytest.approx(0.6 * (1 - 1 / ratio) * 50e-6)
    assert item.gain_share == pytest.approx(item.gain_s / 50e-6)
    assert item.speedup == pytest.approx(1 / (1 - item.gain_share))
    assert item.where == ["conv"] and "60.0%" in item.how
    assert item.evidence.startswith(
        "benchmarks/results/epyc-2core/conv_relu_maxpool.json (AMD EPYC"
    )


def test_a_site_in_channels_last_is_held_against_that_arm():
    import dataclasses

    site = dataclasses.replace(SITE, is_channels_last=True)
    assert "against torch channels_last" in only(facts(chains=[CHAIN], sites=[site])).how


def test_a_chain_without_the_pool_is_not_the_sites():
    chain = Chain("conv", (X, W), {"anchor": 30.0, "relu": 10.0})
    assert advice(facts(chains=[chain], sites=[SITE])) == []


def test_on_a_device_no_kernel_of_ours_is_promised():
    found = facts(
        of=trace(device=[("sgemm", 0, 100)]),
        chains=[CHAIN, Chain("cross_entropy", ((512, 50257),), {"anchor": 90.0})],
        sites=[SITE],
        optimizers=[torch.optim.Adam(nn.Linear(9, 9).parameters())],
    )
    assert advice(found) == []


def test_the_loss_by_its_measured_ratio():
    chain = Chain("cross_entropy", ((512, 50257), (512,)), {"anchor": 80.0})
    item = only(facts(chains=[chain]))
    ratio = gains.gain("cross_entropy", ((512, 50257),), "torch").ratio
    assert item.name == "fastmodel-cross_entropy"
    assert item.gain_s == pytest.approx(0.8 * (1 - 1 / ratio) * 50e-6)


def layers():
    return nn.Sequential(*(nn.Linear(168, 168) for _ in range(4))).parameters()


def optimizer_trace():
    return trace(Event("fastmodel.optimizer", 60, 100, 1, is_range=True))


def test_the_optimizer_has_two_ways_out_that_exclude_one_another():
    found = facts(of=optimizer_trace(), optimizers=[torch.optim.Adam(layers())])
    ours, theirs = advice(found)
    assert (ours.name, theirs.name) == ("fastmodel-adam", "fused-optimizer")
    assert ours.target == theirs.target
    ratio = gains.gain("adam", [(8, 4 * 168 * 169)], "torch").ratio
    assert ours.gain_s == pytest.approx(0.4 * (1 - 1 / ratio) * 50e-6)
    assert "8 tensors of 14,196 on average" in ours.how
    assert together([ours, theirs], 50e-6).advice == ["fastmodel-adam"]


@pytest.mark.parametrize(
    ("options", "arm", "count"),
    [({"fused": True}, "torch fused", 1), ({"foreach": True}, "torch foreach", 2)],
)
def test_the_optimizer_is_held_against_the_way_in_use(options, arm, count):
    optimizer = torch.optim.Adam(layers(), **options)
    found = advice(facts(of=optimizer_trace(), optimizers=[optimizer]))
    assert len(found) == count and all(f"against {arm}" in item.how for item in found)


def test_fastmodels_own_optimizer_and_one_without_a_kernel_are_left_alone():
    import fastmodel as fm

    parameters = list(nn.Linear(9, 9).parameters())
    optimizers = [fm.optim.Adam(parameters), torch.optim.Rprop(parameters)]
    assert advice(facts(of=optimizer_trace(), optimizers=optimizers)) == []


def test_the_loader_by_its_control_run():
    loader = torch.utils.data.DataLoader([1, 2], num_workers=0)
    item = only(facts(control_s=30e-6, loader_s=25e-6, loaders=[loader]))
    assert item.name == "data-loader" and item.gain_s == pytest.approx(20e-6)
    assert "0.03 ms a step, against 0.05 ms" in item.how and "num_workers now: 0" in item.action
    # Without a difference there is no advice, whatever the loader says it took.
    assert advice(facts(control_s=51e-6, loader_s=25e-6)) == []


def test_a_line_that_waits_by_its_time_and_none_below_the_threshold():
    def point(time_s):
        return SyncPoint("train.py:7", "aten::_local_scalar_dense", "loss.item()", 2, time_s)

    item = only(facts(sync_points=[point(5e-6)]))
    assert item.gain_share == pytest.approx(0.1) and item.where == ["train.py:7: loss.item()"]
    assert advice(facts(sync_points=[point(0.2e-6), point(None)])) == []


def test_zeroed_gradients_cost_the_fill_and_the_addition():
    node = "autograd::engine::evaluate_function: torch::autograd::AccumulateGrad"
    found = trace(
        Event("Optimizer.zero_grad#SGD.zero_grad", 0, 20, 1, is_range=True),
        Event("aten::_foreach_zero_", 2, 12, 1),
        Event(node, 40, 60, 1),
        Event("torch::autograd::AccumulateGrad", 42, 58, 1),
        Event("aten::add_", 44, 54, 1),
        Event("aten::zero_", 70, 75, 1),
    )
    item = only(facts(of=found))
    assert item.name == "set-to-none" and item.gain_share == pytest.approx(0.2)


def test_a_device_that_waits_for_launches():
    launch = Event("cudaLaunchKernel", 0, 5, 1)
    found = facts(of=trace(launch, device=[("a", 10, 30), ("b", 20, 40)]))
    item = only(found)
    assert item.name == "cuda-graph" and item.gain_share == pytest.approx(0.7)
    assert "1 launches a step" in item.how
    assert advice(facts(of=trace(launch, device=[("a", 0, 80)]))) == []


def test_copies_from_pageable_memory():
    device = [("gemm", 0, 60), ("Memcpy HtoD (Pageable -> Device)", 60, 90)]
    item = only(facts(of=trace(device=device)))
    assert item.name == "pinned-memory" and item.gain_share == pytest.approx(0.3)


def test_the_largest_gain_comes_first_and_small_ones_are_left_out():
    found = facts(
        chains=[CHAIN],
        sites=[SITE],
        control_s=49.9e-6,  # a fifth of a per cent
        sync_points=[SyncPoint("a.py:1", "aten::equal", "x", 1, 3e-6)],
    )
    assert [item.name for item in advice(found)] == [
        "fastmodel-conv_relu_maxpool",
        "synchronization",
    ]


def conv_root():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
    return RootCall(model, (torch.randn(4, 8, 16, 16),), {})


def tried(ratio, before_s=30e-6, low=None):
    return Tried(before_s, before_s / ratio, Estimate(ratio, low or ratio, ratio))


@pytest.fixture
def no_whole(monkeypatch):
    """The trial of the whole step is left out."""
    monkeypatch.setattr(advice_trials, "whole", lambda facts: ())


def test_trials_leave_the_model_and_the_random_state_alone(monkeypatch, no_whole):
    ratios = iter([2.0, 4.0])
    real = trials._try

    def trial(*arguments):
        found = real(*arguments)
        assert found.ratio.value > 0 and found.before_s > 0 and found.after_s > 0
        return tried(next(ratios))

    monkeypatch.setattr(trials, "_try", trial)
    root = conv_root()
    before = {name: value.clone() for name, value in root.model.state_dict().items()}
    state = torch.get_rng_state()
    chain = Chain("conv", ((4, 8, 16, 16), (16, 8, 3, 3)), {"anchor": 1.0})
    found = advice(facts(roots=[root], chains=[chain]))
    # Of a step of 50 us forward and backward take 30, and a half or three quarters of those are saved.
    assert {item.name: item.gain_share for item in found} == pytest.approx(
        {"channels-last": 0.3, "autocast": 0.45}
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(v, root.model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None and p.is_contiguous() for p in root.model.parameters())


def test_a_trial_saves_no_more_than_the_step_however_busy_the_machine_was():
    assert tried(2.0, before_s=30e-6).saved_s(50e-6) == pytest.approx(15e-6)
    assert tried(2.0, before_s=90e-6).saved_s(50e-6) == pytest.approx(25e-6)


def whole_of(monkeypatch, ratio, low=None, has_loss=True, optimizer=None):
    found = WholeStep(tried(ratio, 40e-6, low), has_loss, optimizer, ("Conv2d + ReLU (conv)",))
    monkeypatch.setattr(advice_trials, "whole_step", lambda *_: found)
    monkeypatch.setattr(advice_trials, "tried", lambda facts: ())
    call = LossCall(nn.CrossEntropyLoss(), (4, 2), torch.zeros(4))
    loss = Chain("cross_entropy", ((512, 50257), (512,)), {"anchor": 10.0})
    adam = torch.optim.Adam(layers())
    return facts(
        of=optimizer_trace(), chains=[CHAIN, loss], sites=[SITE], roots=[conv_root()],
        losses=[call], optimizers=[adam],
    )  # fmt: skip


def test_what_was_tried_as_a_whole_takes_the_place_of_its_pieces_in_the_estimate(monkeypatch):
    found = whole_of(monkeypatch, 4.0, optimizer=torch.optim.Adam(layers()))
    items = advice(found)
    assert items[0].name == "fastmodel-step" and items[0].gain_s == pytest.approx(30e-6)
    assert "0.04 ms before, 0.01 ms after, 4.00 times as fast [4.00, 4.00]" in items[0].how
    assert "the other 0.01 ms of the step" in items[0].how
    assert "forward, loss, backward and optimizer of Sequential" in items[0].how
    for part in ("fm.optimize(", "fm.nn.CrossEntropyLoss()", "fm.optim.Adam(...)"):
        assert part in items[0].action
    assert {"fastmodel-conv_relu_maxpool", "fastmodel-adam"} < {item.name for item in items}
    whole = together(items, 50e-6)
    assert items[0].title.endswith(": Conv2d + ReLU (conv), CrossEntropyLoss, Adam")
    assert whole.advice == ["fastmodel-step"] and whole.step_s == pytest.approx(20e-6)
    assert whole.leaves_out.startswith("batches, logging")


def test_what_the_trial_left_out_is_still_added(monkeypatch):
    items = advice(whole_of(monkeypatch, 1.5, has_loss=False))
    by_name = {item.name: item for item in items}
    assert "forward and backward of" in by_name["fastmodel-step"].how
    found = together(items, 50e-6)
    assert set(found.advice) == {"fastmodel-step", "fastmodel-adam", "fastmodel-cross_entropy"}
    saved_s = sum(by_name[name].gain_s for name in found.advice)
    assert found.step_s == pytest.approx(50e-6 - saved_s)


def test_what_was_tried_and_won_nothing_is_not_promised_piece_by_piece(monkeypatch):
    found = whole_of(monkeypatch, 1.2, low=0.9, optimizer=torch.optim.Adam(layers()))
    items = advice(found)
    assert [item.name for item in items] == ["fused-optimizer"]
    assert together(items, 50e-6) is None
    assert "tried, and no faster: 0.04 ms before" in found.missing["fastmodel-step"]


def test_without_a_trial_the_estimate_says_what_it_leaves_out():
    found = together(advice(facts(chains=[CHAIN], sites=[SITE])), 50e-6)
    assert found.advice == ["fastmodel-conv_relu_maxpool"]
    assert "Python's time between the kernels" in found.leaves_out


def test_a_trial_that_fails_is_a_reason():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x):
            raise RuntimeError("planted")

    found = facts(roots=[RootCall(Broken(), (torch.ones(1),), {})])
    assert advice(found) == [] and "planted" in found.missing["autocast"]
    assert "planted" in found.missing["fastmodel-step"]


def test_sites_are_those_that_optimize_finds_and_the_model_keeps_quiet(capsys):
    class Talks(nn.Sequential):
        def forward(self, x):
            print("called")
            return super().forward(x)

    root = conv_root()
    found, missing = sites([RootCall(Talks(*root.model), root.args, {})])
    assert missing == {} and capsys.readouterr().out == ""
    (site,) = found
    assert (site.name, site.module, site.x_shape) == ("0", "ConvReLUMaxPool2d", (4, 8, 16, 16))
    assert site.weight_shape == (16, 8, 3, 3) and not site.is_channels_last
    root.model.to(memory_format=torch.channels_last)
    assert sites([root])[0][0].is_channels_last


def test_a_model_that_cannot_be_read_is_a_reason():
    _, missing = sites([RootCall(nn.Linear(3, 3), (torch.ones(1, 4),), {})])
    assert "fm.optimize" in missing["Linear"]


def test_the_work_of_a_step_is_counted_from_its_shapes():
    look = Look()
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    target, table = torch.zeros(3), torch.randn(1000, 8)
    with look:
        a @ b
        target.add_(1.0)
        table[torch.tensor([1, 2])]
        a.t()
        torch.empty(100)
    assert look.work["aten::mm"].flops == 2 * 3 * 4 * 5
    assert look.work["aten::mm"].bytes == 4 * (12 + 20 + 15)
    assert look.work["aten::add_"].bytes == 2 * 4 * 3  # read and written
    assert (
        look.work["aten::index"].bytes == 2 * (2 * 8 * 4) + 2 * 8
    )  # no more of the table than taken
    assert "aten::t" not in look.work and look.work["aten::empty"].bytes == 0


def test_lines_that_wait_are_the_users_own():
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    look = Look()
    with look:
        optimizer.step()  # reads its own counters
        value = torch.ones(()).item()
        if torch.ones(()) > 0:
            value += 1
        str(torch.ones(()))
    codes = [line.code for line in look.lines]
    assert "value = torch.ones(()).item()" in codes and "if torch.ones(()) > 0:" in codes
    assert "str(torch.ones(()))" in codes and "optimizer.step()" not in str(codes)
    assert all("test_profile_advice.py:" in line.where for line in look.lines)


LIMITS = Ceilings("cpu", "float32", 200.0, 300.0, 20.0)


def test_the_roof_is_the_copys_slope_up_to_the_better_of_the_two_peaks():
    assert peak_gflop_per_s(LIMITS) == 300.0
    assert attainable_gflop_per_s(LIMITS, 1.0) == 20.0
    assert attainable_gflop_per_s(LIMITS, 15.0) == 300.0
    assert attainable_gflop_per_s(LIMITS, 1000.0) == 300.0


@pytest.mark.parametrize(
    ("name", "peak", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 3352),
        ("NVIDIA H100 PCIe", 756, 2039),
        ("NVIDIA H100 NVL", 835.5, 3900),
        ("NVIDIA H200", 989.4, 4800),
        ("NVIDIA A100-SXM4-40GB", 312, 1555),
        ("NVIDIA A100-SXM4-80GB", 312, 2039),
        ("NVIDIA A100 80GB PCIe", 312, 1935),
        ("NVIDIA L4", 121, 300),
        ("NVIDIA L40S", 362.05, 864),
        ("Tesla T4", 65, 320),
        ("NVIDIA A10", 125, 600),
    ],
)
def test_a_device_is_found_by_its_name(name, peak, bandwidth):
    entry = datasheet(name)
    assert (entry["tensor_16_bit"], entry["memory_gb_per_s"]) == (peak, bandwidth)


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GH200 480GB", "NVIDIA L40", "cpu"])
def test_a_device_that_is_not_in_the_table_is_not_taken_for_another(name):
    assert datasheet(name) is None


def test_every_datasheet_has_its_source():
    assert all(entry["source"].partition("https://")[2] for entry in devices())


def test_the_ceilings_leave_the_random_state_alone_and_say_what_is_not_known():
    state = torch.get_rng_state()
    found = measure(torch.device("cpu"), torch.float32)
    assert torch.equal(state, torch.get_rng_state())
    assert min(found.gemm_gflop_per_s, found.conv_gflop_per_s, found.copy_gb_per_s) > 0
    assert found.datasheet_gflop_per_s is None and "CPU" in found.missing["datasheet_gflop_per_s"]
