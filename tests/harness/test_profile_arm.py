"""An arm's operators: their work by formula, under the roof, and fastmodel's own by their names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness.measure import Runner
from fastmodel.harness.profile import arm, modelled
from fastmodel.harness.workloads import default_arms

from .conftest import ROOF, Blobs


class Deep(Blobs):
    """Blobs with two places next to each other that fastmodel fuses."""

    def model(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 4)),
        )


def profiled(workload, options, name, roof=ROOF):
    (chosen,) = (one for one in default_arms(workload) if one.name == name)
    runner = Runner(chosen, workload, options)
    runner.run(2)
    return arm.profile(runner, roof, steps=3)


def test_an_operators_work_is_its_formulas_and_its_roof_the_one_given(blobs, options):
    found = profiled(blobs, options, "eager")
    rows = {row.name: row for row in found.operators}
    conv = rows["aten::convolution"]
    # Batch 8, 4 output channels over 6x6, 9 products each; all tensors once.
    assert conv.calls == 1 and conv.flops == 2 * 9 * 8 * 4 * 6 * 6
    assert conv.modelled_bytes == 4 * (8 * 8 * 8 + 4 * 9 + 4 + 8 * 4 * 6 * 6)
    assert conv.flop_per_byte == pytest.approx(conv.flops / conv.modelled_bytes)
    assert conv.gflop_per_s == pytest.approx(conv.flops / conv.time_s / 1e9)
    attainable = min(200.0, 10.0 * conv.flop_per_byte)
    assert conv.roofline_share == pytest.approx(conv.gflop_per_s / attainable)
    pool = rows["aten::max_pool2d_with_indices"]
    assert pool.flops is None and pool.missing["flops"]
    assert pool.roofline_share == pytest.approx(pool.modelled_gb_per_s / 10.0)
    assert found.why_no_operators == ""
    step_s = sum(part.time_s for part in found.parts)  # they add up to the step
    assert conv.share == pytest.approx(conv.time_s / step_s, rel=0.02)
    times = [row.time_s for row in found.operators]
    assert times == sorted(times, reverse=True) and len(times) <= 12
    assert 0 < sum(row.share for row in found.operators) < 1


def test_a_chain_that_is_replayed_shows_its_single_kernels(options):
    """Under the profiler, and under the look, a chain calls its modules one by one through the dispatcher."""
    workload = Deep(options)
    model = default_arms(workload)[-1].build(workload, options).model
    assert isinstance(model, fm.nn.Sequential)
    found = profiled(workload, options, "fastmodel")
    rows = {row.name: row for row in found.operators}
    for name in ("conv_relu_maxpool", "conv_relu_maxpool_backward", "linear_relu"):
        row = rows[f"fastmodel::{name}"]
        assert row.calls == 1 and row.flops > 0 and row.roofline_share > 0, name
    assert rows["fastmodel::conv_relu_maxpool"].flops == 2 * 9 * 8 * 4 * 6 * 6


def test_without_a_roof_there_are_rates_but_no_shares(blobs, options):
    found = profiled(blobs, options, "eager", roof=None)
    (conv,) = (row for row in found.operators if row.name == "aten::convolution")
    assert conv.gflop_per_s > 0 and conv.roofline_share is None


def test_under_compile_no_mode_looks_and_the_reason_is_kept(blobs, options, monkeypatch):
    monkeypatch.setattr(arm, "why_no_look", lambda: "torch.compile is in use")
    found = profiled(blobs, options, "eager")
    assert found.operators == [] and found.why_no_operators == "torch.compile is in use"
    assert found.parts


def test_a_model_that_fails_under_the_look_keeps_its_parts(blobs, options, monkeypatch):
    def refuse(self, func, types, args=(), kwargs=None):
        raise NotImplementedError("no mode\nhere")

    monkeypatch.setattr(modelled.Look, "__torch_dispatch__", refuse)
    found = profiled(blobs, options, "eager")
    assert found.parts and found.operators == []
    assert found.why_no_operators == "no look at a step's shapes: no mode here"
    assert torch.ones(1).item() == 1  # the mode is gone
