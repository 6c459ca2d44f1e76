"""The table behind the profiler's advice is the committed results, and nothing else."""

from __future__ import annotations

import document
import gains
import pytest

from fastmodel.harness.profile import gains as lookup


def test_the_packaged_table_is_the_committed_results():
    """After new results: `make docs`."""
    assert gains.GAINS.read_text(encoding="utf-8") == gains.gains_text(document.RESULTS)


def test_a_measured_case_gives_its_own_ratio():
    row = next(r for r in lookup._table()["rows"] if r["case"] == "mnist-conv1")
    found = lookup.gain(row["op"], row["sizes"], "torch")
    assert found.ratio == row["torch_ms"]["torch"] / row["ours_ms"]
    assert (found.case, found.is_near) == ("mnist-conv1", True)
    assert found.source == "benchmarks/results/epyc-2core/conv_relu_maxpool.json"


def test_sizes_in_between_take_the_nearest_case():
    found = lookup.gain("conv_relu_maxpool", [(128, 32, 13, 13), (64, 32, 3, 3)], "torch")
    assert found.case == "mnist-conv2" and found.is_near


def test_sizes_far_from_any_case_take_the_least_gain():
    found = lookup.gain("conv_relu_maxpool", [(1, 3, 8, 8), (4096, 3, 1, 1)], "torch")
    rows = [r for r in lookup._table()["rows"] if r["op"] == "conv_relu_maxpool"]
    assert not found.is_near
    assert found.ratio == min(r["torch_ms"]["torch"] / r["ours_ms"] for r in rows)
    assert "the least of any case" in found.words


def test_one_of_pytorchs_arms_over_another():
    found = lookup.gain("adam", [(8, 225_034)], "torch", over="torch fused")
    row = next(r for r in lookup._table()["rows"] if (r["op"], r["case"]) == ("adam", "mnist-cnn"))
    assert found.ratio == row["torch_ms"]["torch"] / row["torch_ms"]["torch fused"]


@pytest.mark.parametrize(("op", "arm"), [("instance_norm", "torch"), ("adam", "jax")])
def test_what_was_not_measured_has_no_gain(op, arm):
    assert lookup.gain(op, [(8, 100)], arm) is None
