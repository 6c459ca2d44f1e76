"""The main job over a small workload: its order, its files, and what is left when it stops."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import jsonschema
import pytest

import fastmodel as fm
from fastmodel.errors import GateError
from fastmodel.harness import bench, measure, report, training
from fastmodel.harness.bench import Bench, Settings
from fastmodel.harness.measure import Timing
from fastmodel.harness.profile import ceilings
from fastmodel.harness.rebuild import rebuild
from fastmodel.harness.records import CostRate, Epoch
from fastmodel.harness.store import Store, load_report
from fastmodel.progress import PlainProgress

from .conftest import ROOF

TIMING = Timing(
    pairs=2, calibration_rounds=2, window_time_s=0.005, warmup_steps=2, warmup_time_s=0.02
)
RATE = CostRate(1.0, "test", "here", None)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(blobs, options, stand_ins, tmp_path):
    def run(**settings):
        stream = io.StringIO()
        with Store(tmp_path) as store, PlainProgress(stream) as progress:
            job = Bench(
                blobs, options, Settings(**({"timing": TIMING} | settings)), store, progress
            )
            return job.run(), stream.getvalue()

    return run


def samples(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_whole_run(run, tmp_path):
    result, said = run(rate=RATE, command=["fastmodel", "bench"])
    assert result.complete and result.incomplete_reason is None
    assert result.gate.passed
    assert list(result.arms) == ["eager", "eager-fused", "channels_last", "fastmodel"]
    assert result.speedup.baseline in ("eager", "eager-fused", "channels_last")
    assert result.speedup.optimized == "fastmodel"
    assert result.speedup.pairs == 2 == len(result.speedup.ratios)
    assert [(row.site, row.replacement) for row in result.swaps] == [
        ("0", "ConvReLU2d"),
        ("5", None),
    ]
    for arm in result.arms.values():
        assert arm.throughput_samples_per_s.estimate > 0
        assert arm.cost_usd_per_epoch > 0
        assert sum(part.share for part in arm.step_parts) == pytest.approx(1.0)
        assert "aten::convolution" in [row.name for row in arm.operators]
        is_trained = arm.name in (result.speedup.baseline, "fastmodel")
        assert len(arm.epochs) == (2 if is_trained else 0)
        assert (arm.test_accuracy is not None) == is_trained
        assert (arm.peak_memory_bytes is not None) == is_trained
        assert ("test_accuracy" in arm.missing) == (not is_trained)
    assert f"fastmodel over {result.speedup.baseline}" in said
    assert result.ceilings == ROOF
    assert load_report(tmp_path) == result


def test_a_roof_that_cannot_be_measured_is_null_with_the_reason(run, monkeypatch):
    def refuse(device, dtype):
        raise RuntimeError("no product\nin this dtype")

    monkeypatch.setattr(ceilings, "measure", refuse)
    result, _ = run(train="none")
    assert result.complete and result.ceilings is None
    assert result.missing["ceilings"] == "no product in this dtype"
    (row,) = (r for r in result.arms["eager"].operators if r.name == "aten::convolution")
    assert row.flops == 2 * 9 * 8 * 4 * 6 * 6 and row.roofline_share is None
    assert row.missing["roofline_share"] == "no ceilings were measured"


def test_a_journal_from_before_there_were_rooflines_is_read(run, tmp_path):
    run(train="none")
    lines = [line for line in samples(tmp_path) if line["kind"] != "RoofMeasured"]
    for line in lines:
        line.pop("operators", None)
        line.pop("why_no_operators", None)
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = rebuild(tmp_path)
    assert result.complete and result.ceilings is None
    assert result.missing["ceilings"] == "measured by a version without a roofline"
    arm = result.arms["eager"]
    assert arm.step_parts and arm.operators == []
    assert arm.missing["operators"].startswith("the run was profiled by a version")


def test_every_null_has_its_reason(run):
    result, _ = run()
    for arm in result.arms.values():
        for name, value in dataclasses.asdict(arm).items():
            if value is None and name != "energy_source":
                assert arm.missing[name], name
    assert result.missing["cost_rate"]


def test_throughputs_and_speedup_are_one_set_of_figures(run):
    result, _ = run()
    fast = result.arms["fastmodel"].throughput_samples_per_s.estimate
    base = result.arms[result.speedup.baseline].throughput_samples_per_s.estimate
    assert fast / base == pytest.approx(result.speedup.estimate)


def test_the_files_fit_the_schema_and_each_other(run, tmp_path):
    result, _ = run()
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.validate(json.loads((tmp_path / "report.json").read_text()), schema)
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.json",
        "report.md",
        "report.html",
        "samples.jsonl",
    }
    windows = [s for s in samples(tmp_path) if s["kind"] == "Window"]
    assert len(windows) == len(result.windows)
    assert [w["time_s"] for w in windows] == [w.time_s for w in result.windows]
    assert len([s for s in samples(tmp_path) if s["kind"] == "EpochEnded"]) == 4
    assert rebuild(tmp_path) == result == load_report(tmp_path)


def test_phases_come_in_order_and_are_interleaved(run):
    result, _ = run()
    phases = list(dict.fromkeys(w.phase for w in result.windows))
    assert phases == ["calibration", "paired", "noise"]
    base = result.speedup.baseline
    order = [w.arm for w in result.windows if w.phase == "paired"]
    assert order == [base, "fastmodel", "fastmodel", base]
    noise = [w.arm for w in result.windows if w.phase == "noise"]
    assert noise == [base, base + " (again)", base + " (again)", base]


@pytest.mark.parametrize(("train", "count"), [("all", 4), ("none", 0)])
def test_which_arms_train_is_a_choice(run, train, count):
    result, _ = run(train=train)
    trained = [arm for arm in result.arms.values() if arm.test_accuracy is not None]
    assert len(trained) == count
    assert result.complete


def test_a_failed_gate_times_nothing_and_says_so(run, tmp_path, monkeypatch):
    def optimize(model, inputs, **options):
        model[0].weight.data.mul_(1.001)
        return model

    monkeypatch.setattr(fm, "optimize", optimize)
    monkeypatch.setattr(measure, "windows", lambda *arguments: pytest.fail("timed"))
    with pytest.raises(GateError, match="nothing was timed"):
        run()
    left = load_report(tmp_path)
    assert not left.complete and "GateError" in left.incomplete_reason
    assert not left.gate.passed and left.windows == []
    assert left.speedup is None and left.missing["speedup"]
    assert [s["kind"] for s in samples(tmp_path)] == ["Started", "Gated", "Stopped"]


def test_an_interrupt_during_timing_keeps_the_windows(run, tmp_path, monkeypatch):
    original = bench.measure.windows

    def interrupted(runners, phase, *arguments):
        for count, window in enumerate(original(runners, phase, *arguments)):
            if phase == "paired" and count == 3:
                raise KeyboardInterrupt
            yield window

    monkeypatch.setattr(bench.measure, "windows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
    left = load_report(tmp_path)
    assert not left.complete
    assert left.incomplete_reason.startswith("interrupted while timing")
    assert len([w for w in left.windows if w.phase == "paired"]) == 3
    assert left.speedup is None
    assert left.arms["fastmodel"].throughput_samples_per_s is not None
    assert (tmp_path / "report.md").exists() and (tmp_path / "report.html").exists()


def test_a_crash_during_training_keeps_the_epochs(run, tmp_path, monkeypatch):
    original = training.train

    def crashing(*arguments):
        yield next(original(*arguments))
        raise RuntimeError("out of\nmemory")

    monkeypatch.setattr(training, "train", crashing)
    with pytest.raises(RuntimeError, match="out of"):
        run()
    left = load_report(tmp_path)
    assert not left.complete
    assert "RuntimeError: out of memory" in left.incomplete_reason
    assert left.speedup is not None
    arm = left.arms[left.speedup.baseline]
    assert len(arm.epochs) == 1 and arm.test_accuracy is None
    assert arm.missing["test_accuracy"]


def test_the_report_on_disk_is_readable_and_incomplete_between_stages(run, tmp_path, monkeypatch):
    seen = []
    original = bench.training_run

    def looking(*arguments):
        for result in original(*arguments):
            yield result
            if isinstance(result, Epoch):
                seen.append(load_report(tmp_path))

    monkeypatch.setattr(bench, "training_run", looking)
    run()
    baseline, _, fast_first, fast_second = seen
    assert not baseline.complete and baseline.speedup is not None
    assert len(baseline.arms[baseline.speedup.baseline].epochs) == 1
    assert len(fast_first.arms[baseline.speedup.baseline].epochs) == 2
    assert len(fast_second.arms["fastmodel"].epochs) == 2


def test_a_drawing_that_fails_does_not_hide_what_stopped_the_run(run, tmp_path, monkeypatch):
    def fail(record):
        raise ValueError("drawing")

    monkeypatch.setattr(report, "render_html", fail)
    monkeypatch.setattr(
        bench.arm_profile, "profile", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run()
    assert not load_report(tmp_path).complete


def test_the_test_set_is_touched_once_a_run_at_the_end(run, blobs, monkeypatch):
    touched = []
    original = training.evaluate

    def evaluate(loop, split):
        touched.append("test" if len(split) == len(blobs.test) else "validation")
        return original(loop, split)

    monkeypatch.setattr(training, "evaluate", evaluate)
    run()
    # Before training, after each of two epochs; and the test.
    assert touched == [*["validation"] * 3, "test"] * 2
