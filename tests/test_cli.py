"""The command line: exit codes, one-line errors, JSON, and Ctrl-C in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.processes import heed_interrupts, script

import fastmodel as fm
from fastmodel import cli
from fastmodel.errors import GateError
from fastmodel.harness import bench as bench_job
from fastmodel.harness.store import dump_report, load_report

ROOT = Path(__file__).resolve().parents[1]
MNIST = str(ROOT / "benchmarks" / "data" / "mnist")
EXAMPLE = f"{ROOT / 'examples' / 'own_loop.py'}:make_workload"
QUICK = ["--pairs", "2", "--window-s", "0.01"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def corrupt_data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"not it")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "nope"], "unknown workload 'nope'; use one of: mnist-cnn, cifar-resnet, recsys"),
        (["bench", "--batch-size", "0"], "'--batch-size': 0 is not in the range"),
        (
            ["bench", "--data", MNIST, "--batch-size", "54001"],
            "54001 is larger than the training set of 54000",
        ),
        (["bench", "--epochs", "0"], "'--epochs': 0 is not in the range"),
        (["bench", "--epochs", "two"], "'two' is not a valid integer"),
        (["bench", "--rate-usd-per-h", "-1"], "must be above 0"),
        (["bench", "--rate-usd-per-h", "nan"], "must be above 0"),
        (["bench", "--rate-usd-per-h", "1e9"], "at most 100000"),
        (["bench", "--instance", "moon.large"], "use one of: c5.large"),
        (["bench", "--schedule", "up"], "'up' is not one of 'none', 'cosine', 'step'"),
        (["bench", "--device", "toaster"], "is no device; use cpu"),
        (["bench", "--device", "cuda:99"], "CUDA devices"),
        (["bench", "--threads", "0"], "'--threads': 0 is not in the range"),
        (["bench", "--lr", "0"], "'--lr'"),
        (["bench", "--data", "/nowhere"], "train-images-idx3-ubyte.gz is missing"),
        (["bench", EXAMPLE, "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["bench", "--sweep", "lr=1,2"], "write batch_size or threads, then =32,64,128"),
        (["bench", "--sweep", "threads=1,1"], "must be different whole numbers above 0"),
        (["bench", "--sweep", "threads=1,x"], "must be different whole numbers above 0"),
        (["bench", "--budget-s", "10"], "--budget-s limits --half-width"),
        (["bench", "--half-width", "1"], "'--half-width'"),
        (["bench", "--prices", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["bench", "--grid-g-per-kwh", "-1"], "--grid-g-per-kwh must be within"),
        (["bench", "--log", "printer"], "'printer' is not one of"),
        (["report", "/nowhere"], "cannot read /nowhere"),
        (["report"], "Missing argument 'DIRECTORIES...'"),
        (["report", "/tmp", "/tmp/"], "a run is given twice"),
        (["bench", "a", "b"], "unexpected extra argument"),
        (["compare", "/nowhere.json", "/nowhere.json"], "cannot read /nowhere.json"),
        (["compare", "one.json"], "Missing argument 'NEW'"),
        (["dance"], "No such command 'dance'"),
        (["--dance"], "No such option"),
    ],
    ids=lambda value: " ".join(value)[-40:] if isinstance(value, list) else "",
)
def test_bad_arguments_are_said_in_one_line_with_exit_code_2(
    capsys, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert code == cli.EXIT_BAD_ARGUMENTS
    assert out == ""
    assert err.startswith("fastmodel: ") and err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []  # nothing was run or left


def test_corrupt_data_is_said_in_one_line(capsys, tmp_path):
    code, _, err = run(capsys, "bench", "--data", corrupt_data(tmp_path), "--out", tmp_path / "out")
    assert code == cli.EXIT_BAD_ARGUMENTS
    assert "wrong SHA-256; delete it and retry" in err and err.count("\n") == 1


def test_no_command_shows_the_help(capsys):
    code, _, err = run(capsys)
    assert code == cli.EXIT_BAD_ARGUMENTS
    assert "bench" in err and "doctor" in err


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "-h"], ["--version"]])
def test_help_and_version_are_no_errors(capsys, arguments):
    code, out, _ = run(capsys, *arguments)
    assert code == 0 and "fastmodel" in out


def test_a_failed_gate_is_exit_code_3(capsys, tmp_path, monkeypatch):
    def fail(self):
        raise GateError("fastmodel disagrees\nwith float64")

    monkeypatch.setattr(bench_job.Bench, "run", fail)
    code, out, err = run(capsys, "bench", EXAMPLE, "--out", tmp_path)
    assert (code, out) == (cli.EXIT_GATE_FAILED, "")
    assert err == "fastmodel: fastmodel disagrees with float64\n"


def test_an_interrupt_is_exit_code_130(capsys, tmp_path, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_job.Bench, "run", interrupt)
    code, _, err = run(capsys, "bench", EXAMPLE, "--out", tmp_path)
    assert code == cli.EXIT_INTERRUPTED
    assert "interrupted" in err


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and "torch_version" in out
    code, out, _ = run(capsys, "doctor", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["fastmodel_version"] == fm.__version__
    assert facts["backends"]["reference"] == "available"


def test_kernels(capsys):
    code, out, _ = run(capsys, "kernels", "--json")
    rows = json.loads(out)
    assert code == 0 and len(rows) == len(fm.kernels())
    assert all(row["available"] == (row["reason"] is None) for row in rows)
    code, out, _ = run(capsys, "kernels")
    assert code == 0 and all(row["op"] in out for row in rows)


def test_bench_end_to_end_over_the_example(capsys, tmp_path):
    """The real fastmodel arm, over the example that the documentation shows."""
    arguments = ["bench", EXAMPLE, *QUICK, "--out", tmp_path, "--rate-usd-per-h", "0.1"]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert "fastmodel" in out and "report.html" in out
    assert "gate passed" in err
    report = load_report(tmp_path)
    assert report.complete and report.gate.passed
    assert report.command[:2] == ["fastmodel", "bench"]
    assert report.arms["fastmodel"].test_accuracy > 0.6
    assert report.arms["fastmodel"].cost_usd_total > 0
    for name in ("report.md", "report.html"):
        assert report.workload.name in (tmp_path / name).read_text()

    code, out, _ = run(capsys, "compare", tmp_path, tmp_path / "report.json")
    assert code == 0 and "no difference seen" in out
    code, out, _ = run(capsys, "compare", tmp_path, tmp_path, "--json")
    assert json.loads(out)["rows"][0]["name"] == "speedup"


def test_the_gate_of_compare_is_an_exit_code(capsys, tmp_path):
    report = load_report(ROOT / "benchmarks" / "results" / "mnist-cnn-epyc-2core.json")
    speedup, old, new = report.speedup, tmp_path / "old.json", tmp_path / "new.json"
    for path, factor in ((old, 1.0), (new, 0.5)):
        low, high = speedup.ci95
        slower = dataclasses.replace(
            speedup, estimate=speedup.estimate * factor, ci95=(low * factor, high * factor)
        )
        path.write_text(dump_report(dataclasses.replace(report, speedup=slower)))
    assert run(capsys, "compare", old, old, "--fail-below", "0.97")[0] == 0
    code, out, err = run(capsys, "compare", old, new, "--fail-below", "0.97")
    assert code == cli.EXIT_SLOWER == 1
    assert "FAILED" in out and err.startswith("fastmodel: speed-up new / old 0.500 [")
    code, out, _ = run(capsys, "compare", old, new, "--fail-below", "0.97", "--json")
    assert code == 1 and json.loads(out)["gate"]["passed"] is False
    assert run(capsys, "compare", old, new)[0] == 0


def test_bench_json_on_stdout_is_the_file(capsys, tmp_path):
    arguments = ["bench", EXAMPLE, *QUICK, "--train", "none", "--out", tmp_path, "--json"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert out == (tmp_path / "report.json").read_text()


def test_the_list_names_workloads_and_prices(capsys):
    code, out, _ = run(capsys, "bench", "--list")
    assert code == 0
    assert "cifar-resnet" in out and "recsys" in out and out.count("synthetic") >= 2
    assert "c5.4xlarge-spot" in out and "second hand" in out


def test_a_sweep_runs_each_value_and_compares_them(capsys, tmp_path):
    arguments = ["bench", EXAMPLE, *QUICK, "--train", "none", "--out", tmp_path]
    code, out, err = run(capsys, *arguments, "--sweep", "batch_size=32,64", "--log", "csv")
    assert code == 0, err
    sizes = [load_report(tmp_path / f"batch_size-{size}").workload.batch_size for size in (32, 64)]
    assert sizes == [32, 64]
    assert "side by side" in out and (tmp_path / "batch_size-32" / "figures.csv").exists()
    for name in ("index.html", "index.md"):
        page = (tmp_path / name).read_text()
        assert "batch size 32" in page and "batch size 64" in page

    # The same page again, from what the runs left; and one report again, from raw results alone.
    folders = [tmp_path / f"batch_size-{size}" for size in (32, 64)]
    code, out, _ = run(capsys, "report", *folders, "--out", tmp_path / "again")
    assert code == 0 and "batch_size-64" in (tmp_path / "again" / "index.html").read_text()
    before = {path.name: path.read_text() for path in folders[0].glob("report.*")}
    for name in before:
        (folders[0] / name).unlink()
    code, out, _ = run(capsys, "report", folders[0], "--log", "openmetrics")
    assert code == 0 and "metrics.txt" in out
    assert {path.name: path.read_text() for path in folders[0].glob("report.*")} == before


def test_ctrl_c_leaves_a_readable_incomplete_report(tmp_path):
    command = [
        *script("import sys; from fastmodel.cli import main; sys.exit(main())"),
        "bench",
        EXAMPLE,
        "--out",
        str(tmp_path),
    ]
    # Far more pairs than anyone waits for: the signal arrives in the middle of them.
    process = subprocess.Popen(
        [*command, "--pairs", "1000", "--window-s", "0.02"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=heed_interrupts,
        text=True,
    )
    samples = tmp_path / "samples.jsonl"
    try:
        deadline_s = time.monotonic() + 120
        while not (samples.exists() and '"paired"' in samples.read_text()):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline_s, "no paired window after two minutes"
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == cli.EXIT_INTERRUPTED
    assert out == ""
    assert err.splitlines()[-1].startswith("fastmodel: interrupted")
    assert "Traceback" not in err
    report = load_report(tmp_path)
    assert not report.complete
    assert report.incomplete_reason.startswith("interrupted while timing")
    assert report.gate.passed
    assert any(window.phase == "paired" for window in report.windows)
    assert (tmp_path / "report.html").exists()
