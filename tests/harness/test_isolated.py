"""Arms in processes of their own: they are timed, profiled and trained there, and may die there."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

from fastmodel.errors import ArmFailedError, InputError
from fastmodel.harness.bench import Bench, Settings
from fastmodel.harness.draft import Draft
from fastmodel.harness.isolated import Isolated
from fastmodel.harness.journal import ArmInfo, Failed, PhaseEnded, Started
from fastmodel.harness.measure import AGAIN, Timing
from fastmodel.harness.records import Window
from fastmodel.harness.store import Store, load_report
from fastmodel.harness.training import training_run
from fastmodel.harness.workloads import Options, registry
from fastmodel.progress import PlainProgress

from . import crashing_workload
from .sample_report import full

SOURCE = f"{Path(crashing_workload.__file__)}:make"
OPTIONS = Options(batch_size=32, epochs=1)
TIMING = Timing(
    pairs=3, calibration_rounds=2, window_time_s=0.002, warmup_steps=2, warmup_time_s=0.02
)


@pytest.fixture(autouse=True)
def own_compile(monkeypatch):
    """The workload puts its own in the place of torch.compile."""
    monkeypatch.setattr(torch, "compile", torch.compile)


def run(tmp_path, **settings):
    stream = io.StringIO()
    workload = registry.make(SOURCE, OPTIONS)
    with Store(tmp_path) as store, PlainProgress(stream) as progress:
        chosen = {"timing": TIMING, "with_compile": True, "source": SOURCE} | settings
        job = Bench(workload, OPTIONS, Settings(**chosen), store, progress)
        return job.run(), stream.getvalue()


def test_an_isolated_arm_is_measured_like_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMODEL_TEST_COMPILE", "works")
    result, _ = run(tmp_path, train="all")
    arm = result.arms["compile"]
    assert result.complete and result.failures == {}
    assert arm.throughput_samples_per_s.estimate > 0 and arm.startup_time_s > 0
    assert len(arm.epochs) == 1 and arm.step_parts
    assert arm.test_accuracy == pytest.approx(result.arms["eager-fused"].test_accuracy, abs=0.05)
    assert arm.epochs[0].train_loss == pytest.approx(
        result.arms["eager-fused"].epochs[0].train_loss, rel=1e-4
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "OSError: no compiler found"),
        ("4", f"its process was killed by SIGABRT: {crashing_workload.BAD_WORD}"),
    ],
    ids=["does not build", "dies in a window"],
)
def test_an_arm_that_fails_takes_nothing_along(tmp_path, monkeypatch, how, reason):
    monkeypatch.setenv("FASTMODEL_TEST_COMPILE", how)
    result, said = run(tmp_path)
    assert result.complete
    assert result.failures == {"compile": reason}
    assert f"compile failed: {reason}; the others go on" in said
    assert result.speedup.baseline in ("eager", "eager-fused") and result.speedup.pairs == 3
    arm = result.arms["compile"]
    assert arm.epochs == [] and arm.missing["train_time_s"] == reason
    if arm.throughput_samples_per_s is None:
        assert arm.missing["throughput_samples_per_s"] == reason
    assert load_report(tmp_path) == result
    for name in ("report.md", "report.html"):
        assert crashing_workload.BAD_WORD in (tmp_path / name).read_text() or how == "raises"


def draft_of(*events) -> Draft:
    """A fold over arms that were calibrated, compile the fastest of them."""
    arms = [
        ArmInfo("eager", "", False),
        ArmInfo("compile", "", False),
        ArmInfo("fastmodel", "", True),
    ]
    report = full()
    draft = Draft(
        Started(2, "", [], report.environment, report.workload, TIMING, arms, None),
    )
    calibration = [
        Window(name, pair, position, 1, 1, time_s, "calibration")
        for pair in range(2)
        for position, (name, time_s) in enumerate((("eager", 2.0), ("compile", 1.0)))
    ]
    for event in (*calibration, PhaseEnded("calibration", "all"), *events):
        draft.take(event, 0.0)
    return draft


def pair_of(baseline: str, pair: int, phase: str = "paired") -> list[Window]:
    other = "fastmodel" if phase == "paired" else baseline + AGAIN
    return [Window(baseline, pair, 0, 1, 1, 1.0, phase), Window(other, pair, 1, 1, 1, 0.5, phase)]


def test_a_baseline_that_dies_in_the_pairs_gives_way_to_the_next():
    draft = draft_of(*pair_of("compile", 0), PhaseEnded("paired", "all"))
    assert draft.baseline == "compile" and draft.rounds("paired") == 1
    draft.take(Failed("compile", "died", in_timing=True), 0.0)
    assert draft.baseline == "eager" and "paired" not in draft.ended
    for event in (*pair_of("eager", 1), PhaseEnded("paired", "all"), *pair_of("eager", 0, "noise")):
        draft.take(event, 0.0)
    draft.take(PhaseEnded("noise", "all"), 0.0)
    speedup = draft.report().speedup
    assert (speedup.baseline, speedup.ratios) == ("eager", [2.0])


def test_a_baseline_that_dies_after_the_timing_keeps_its_ratio():
    timed = [*pair_of("compile", 0), PhaseEnded("paired", ""), *pair_of("compile", 0, "noise")]
    draft = draft_of(*timed, PhaseEnded("noise", ""), Failed("compile", "died in training"))
    report = draft.report()
    assert report.speedup.baseline == "compile" and report.speedup.estimate == 2.0
    assert report.failures == {"compile": "died in training"}
    assert report.arms["compile"].missing["train_time_s"] == "died in training"


def test_the_channel_carries_results_and_errors():
    child = Isolated("eager", SOURCE, OPTIONS)
    try:
        results = list(child.ask(training_run))
        assert [type(result).__name__ for result in results] == [
            "Untrained",
            "Epoch",
            "Test",
            "Reading",
        ]
        with pytest.raises(ArmFailedError, match=r"eager failed: TypeError: .*positional argument"):
            list(child.ask(training_run, None, "one too many"))
        assert len(list(child.ask(training_run))) == 4  # it lives on
    finally:
        child.close()


def test_it_needs_to_know_the_workloads_source(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="name the workload's source"):
        run(tmp_path, source=None)
