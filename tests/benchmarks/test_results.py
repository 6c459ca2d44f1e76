"""The committed results: the files of the table's rows, and the documents that are written from them."""

from __future__ import annotations

import dataclasses

import document
import pytest
import results
from ceilings import Ceilings

import fastmodel as fm
from fastmodel.harness.store import load_report
from fastmodel.timing import Estimate

NATIVE = sorted(
    {(row.op, row.evidence) for row in fm.kernels() if row.kernel.startswith("native_kernel:")}
)

ROW = results.Row(
    op="adam",
    case="one",
    pass_="step",
    median_ms={"auto": 1.0, "cpu": 1.0, "torch": 3.0, "torch fused": 2.0},
    best_torch="torch fused",
    ratio=Estimate(2.0, 1.9, 2.1),
    noise=Estimate(1.0, 0.99, 1.01),
    gflop_per_s=1.0,
    gb_per_s=20.0,
    flop_share=0.002,
    byte_share=0.5,
    calls_a_window=3,
    times_ms={"auto": [1.0, 1 / 3]},
    left_out={"torch.compile": "too long"},
)
CEILINGS = Ceilings(500.0, 400.0, 200.0, 30.0, 40.0)


@pytest.mark.parametrize(("op", "evidence"), NATIVE, ids=[op for op, _ in NATIVE])
def test_a_native_row_names_the_results_that_speak_for_it(op, evidence):
    """An op without them: `make bench-ops`, then the op's file into benchmarks/results."""
    path = document.ROOT / evidence
    assert path.is_file()
    found = results.load(document.RESULTS / f"{op}.json")
    assert found.rows and {row.op for row in found.rows} == {op}
    assert found.environment.commit and found.environment.cpu_model


def test_what_is_written_is_read(tmp_path):
    (path,) = results.write(tmp_path, [ROW], CEILINGS)
    found = results.load(path)
    assert path.name == "adam.json" and found.ceilings == CEILINGS
    assert found.rows == [dataclasses.replace(ROW, times_ms={"auto": [1.0, 0.33333]})]
    assert '"auto": [ 1.0, 0.33333 ]' in path.read_text()


def test_an_op_is_a_file(tmp_path):
    other = dataclasses.replace(ROW, op="sgd")
    paths = results.write(tmp_path, [ROW, other, ROW], CEILINGS)
    assert [(path.name, len(results.load(path).rows)) for path in paths] == [
        ("adam.json", 2),
        ("sgd.json", 1),
    ]


def test_the_table_prints_every_arm_the_ratio_and_the_shares():
    text = "\n".join(results.table([ROW]))
    for part in (
        "torch fused",
        "3.000",
        "2.000",
        "2.00 [1.90, 2.10]",
        "50%",
        "no torch.compile arm: too long",
    ):
        assert part in text


def test_the_document_is_that_of_the_committed_results():
    committed = document.KERNELS.read_text(encoding="utf-8")
    assert committed == document.kernels_document(), "run make docs"


@pytest.mark.parametrize("name", ["README", "WORKLOADS"])
def test_the_tables_are_those_of_the_committed_results(name):
    committed = getattr(document, name).read_text(encoding="utf-8")
    written = {"README": document.readme_document, "WORKLOADS": document.workloads_document}[name]
    assert committed == written(committed), "run make docs"


def test_the_gpts_train_and_fastmodels_arm_wins():
    """To a lower validation loss in under two minutes, 1.1 times the best PyTorch arm a step."""
    for name in document.GPTS:
        report = load_report(document.RESULTS / "gpt" / f"{name}.json")
        ours = report.arms[report.speedup.optimized]
        assert report.speedup.estimate >= 1.1 and "compile" in report.arms
        assert ours.validation_bits_per_byte < ours.untrained_bits_per_byte
        assert ours.train_time_s + ours.evaluation_time_s + ours.startup_time_s < 120


def test_a_document_shows_each_row_and_its_losses(tmp_path):
    loss = dataclasses.replace(ROW, case="two", ratio=Estimate(0.5, 0.4, 0.6))
    results.write(tmp_path, [ROW, loss], CEILINGS)
    text = document.kernels_document(tmp_path)
    assert "| one | step | 1 | 3 | **2** | 2.00 [1.90, 2.10] | 1.0 (0%) | 20.0 (50%) |" in text
    assert "| adam | step | 2 | 1.00 | 0.50 (two) | 2.00 (one) |" in text
    assert "No torch.compile arm for one step, two step: too long." in text


def test_a_readme_without_its_markers_is_an_error():
    with pytest.raises(ValueError, match="steps: make docs"):
        document.readme_document("# fastmodel\n")
