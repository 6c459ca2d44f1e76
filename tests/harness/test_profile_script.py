"""Scripts under the profiler, in processes of their own: exit codes, messages, what is in the report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from support.processes import heed_interrupts, script

from fastmodel.harness.profile_job import load_profile

PROFILE = "import sys; from fastmodel.cli import main; sys.exit(main(['profile', *sys.argv[1:]]))"
QUICK = ["--wait", "2", "--timed", "2", "--warmup", "1", "--active", "3", "--control", "2"]
LOOP = """
    import sys, torch
    from torch import nn
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(4, 8)).sum().backward()
            optimizer.step()
"""


@pytest.fixture
def profiled(tmp_path):
    """Start a script under the profiler; gives the process, its report's folder and its file."""
    running = []

    def start(code, *options, arguments=(), wait=True):
        path = tmp_path / "train.py"
        path.write_text(textwrap.dedent(LOOP) + textwrap.dedent(code))
        out = tmp_path / "out"
        command = [*script(PROFILE), *QUICK, *options, "--no-trials", "--out", str(out)]
        process = subprocess.Popen(
            [*command, str(path), *arguments],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=heed_interrupts,
            text=True,
        )
        running.append(process)
        if not wait:
            return process, out
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr, out

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_whole_run(profiled):
    code, stdout, stderr, out = profiled(
        "train(30); print('args', sys.argv[1:], __name__)", "--trace", arguments=["--lr", "3"]
    )
    assert code == 0, stderr
    assert "args ['--lr', '3'] __main__" in stdout and "Where a step goes" in stdout
    report = load_profile(out)
    # Nothing is watched any more once the profile is there.
    assert report.complete and report.exit_code == 0 and report.steps_seen == 9
    assert report.step_boundary == "SGD.step"
    assert (report.phases.timed, report.phases.look, report.phases.active) == (2, 1, 3)
    assert report.phases.warmup == 1 and report.phases.control == 0
    assert report.telemetry.source == "psutil" and "cpu_energy_j" in report.telemetry.missing
    assert sum(part.share for part in report.classes) == pytest.approx(1)
    names = [row.name for row in report.operators]
    assert "aten::addmm" in names and "aten::mm" in names
    addmm = report.operators[names.index("aten::addmm")]
    assert addmm.calls == 2 and addmm.flops == 2 * 4 * 8 * 16 + 2 * 4 * 16 * 1
    assert addmm.modelled_bytes == 4 * (4 * 8 + 8 * 16 + 16 + 4 * 16 + 4 * 16 + 16 + 1 + 4)
    events = json.loads((out / report.trace_file).read_text())["traceEvents"]
    assert sum(str(e["name"]).startswith("ProfilerStep") for e in events) == 3
    assert (out / "profile.html").read_text().startswith("<!doctype html>")


def test_json_is_alone_on_standard_output(profiled):
    code, stdout, stderr, out = profiled(
        "import os; print('mine'); os.system('echo theirs'); train(12)", "--json"
    )
    assert code == 0
    assert stdout == (out / "profile.json").read_text()
    assert "mine" in stderr and "theirs" in stderr


def test_a_script_that_raises_has_its_own_traceback_and_code(profiled):
    code, _, stderr, out = profiled("train(6)\nraise ValueError('planted')")
    assert code == 1
    assert "ValueError: planted" in stderr and "runpy" not in stderr and "script.py" not in stderr
    report = load_profile(out)
    assert not report.complete and report.exit_code == 1
    assert report.incomplete_reason == "the script raised ValueError: planted"
    # The steps before it: two were waited for, two timed, one looked at, one of the warm-up.
    assert report.steps_seen == 6 and report.step_time.steps == 2
    assert report.missing["classes"] == report.incomplete_reason


def test_the_steps_that_ended_before_a_failure_are_in_the_classes(profiled):
    code, _, _, out = profiled("train(8)\nraise SystemExit(7)")
    report = load_profile(out)
    assert code == 7 and report.phases.active == 2
    assert report.incomplete_reason == "the script exited with code 7"
    total_s = sum(part.time_s for part in report.classes)
    assert total_s == pytest.approx(report.profiled_step_s, abs=200e-6)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('words')", 1), ("", 0)],
)
def test_the_exit_code_is_the_scripts(profiled, ending, expected):
    code, _, stderr, out = profiled(f"train(12)\n{ending}")
    assert code == expected
    assert ("words" in stderr) == ("words" in ending)
    assert load_profile(out).exit_code == expected


def test_a_script_that_never_steps_is_told_so(profiled):
    code, _, stderr, out = profiled("print(model(torch.ones(1, 8)).item())")
    assert code == 0
    assert "no optimizer stepped" in stderr
    report = load_profile(out)
    assert not report.complete and report.steps_seen == 0 and report.telemetry is not None


def test_a_fork_writes_nothing_and_keeps_its_own_code(profiled):
    code, stdout, stderr, out = profiled(
        """
        import os, warnings
        warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
        train(3)
        child = os.fork()
        train(20)
        if child == 0:
            print("child done")
            sys.exit(5)
        status = os.waitpid(child, 0)[1]
        print("child's code", os.waitstatus_to_exitcode(status))
        """
    )
    assert code == 0, stderr
    assert "child's code 5" in stdout and stdout.count("Where a step goes") == 1
    report = load_profile(out)
    assert report.complete and report.exit_code == 0 and report.steps_seen == 9


def until(condition, process):
    deadline_s = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_partial_report_and_ends_as_it_would(profiled, tmp_path, number):
    ready = tmp_path / "ready"
    process, out = profiled(
        f"train(4); open({str(ready)!r}, 'w').close()\nimport time\ntime.sleep(300)", wait=False
    )
    until(ready.exists, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -number
    report = load_profile(out)
    assert not report.complete and report.steps_seen == 4 and report.step_time.steps == 2
    assert "interrupted" in stderr or "terminated" in stderr


def test_a_failure_after_the_profile_leaves_it_complete(profiled):
    code, _, stderr, out = profiled("train(20)\nraise ValueError('late')")
    report = load_profile(out)
    assert code == 1 and "ValueError: late" in stderr
    assert report.complete and report.exit_code == 1
    assert report.notes[-1] == "after the profile was taken, the script raised ValueError: late"


def test_stop_ends_the_script_once_the_profile_is_there(profiled):
    code, stdout, _, out = profiled("train(10**9)\nprint('never')", "--stop")
    assert code == 0 and "never" not in stdout
    assert load_profile(out).complete


def test_telemetry_alone_times_every_step(profiled):
    _, _, _, out = profiled("train(40)", "--telemetry-only")
    report = load_profile(out)
    assert report.complete and report.classes == [] and report.step_time.steps == 38
    assert report.telemetry.source == "psutil"


def test_worker_processes_and_a_slow_loader_get_a_control_run(profiled):
    code, _, stderr, out = profiled(
        """
        import time
        class Slow(torch.utils.data.Dataset):
            def __len__(self):
                return 4000
            def __getitem__(self, index):
                time.sleep(0.01)
                return torch.randn(8)

        if __name__ == "__main__":
            for batch in torch.utils.data.DataLoader(Slow(), batch_size=4, num_workers=2):
                optimizer.zero_grad()
                model(batch).sum().backward()
                optimizer.step()
        """,
        "--stop",
    )
    assert code == 0, stderr
    report = load_profile(out)
    assert report.phases.control == 2
    shares = {part.name: part.share for part in report.classes}
    assert shares["data loader"] > 0.3
    first = report.advice[0]
    assert first.name == "data-loader" and "num_workers now: 2" in first.action
    assert first.gain_share > 0.3


def test_what_is_no_script_is_said_before_anything_is_written(tmp_path, capsys):
    from fastmodel import cli

    code = cli.main(["profile", "--out", str(tmp_path / "out"), "nowhere.py"])
    captured = capsys.readouterr()
    assert code == 2 and captured.err.count("\n") == 1
    assert "nowhere.py is no file" in captured.err
    assert not (tmp_path / "out").exists()
