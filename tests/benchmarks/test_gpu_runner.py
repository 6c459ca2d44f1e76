"""`make gpu` without a GPU: what its driver runs, for how long, what it leaves and how it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import plan
import pytest
import records
import run as gpu_run
import summary
import torch

RUN = Path(gpu_run.__file__)


class TestCommandLine:
    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, str(RUN), *arguments], capture_output=True, text=True, timeout=60
        )

    def test_dry_run_lists_the_parts(self, tmp_path):
        done = self.run("--dry-run", "--results", str(tmp_path), "--budget-s", "240")
        assert done.returncode == 0 and not list(tmp_path.iterdir())
        lines = done.stdout.splitlines()
        assert [line.split()[0] for line in lines] == [step.name for step in plan.STEPS]
        assert lines[0].split()[1] == "55"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
    def test_without_a_device_one_clear_line_before_anything_is_built(self, tmp_path):
        done = self.run("--results", str(tmp_path / "results"))
        assert done.returncode == 1 and not done.stdout
        (line,) = done.stderr.splitlines()
        assert line.startswith("make gpu: no CUDA device") and "nothing was built" in line
        assert not (tmp_path / "results").exists()

    @pytest.mark.parametrize("arguments", [["--only", "all"], ["--budget-s", "0"], ["--what"]])
    def test_bad_arguments(self, arguments):
        done = self.run(*arguments)
        assert done.returncode == 2 and "make gpu: error" in done.stderr


class TestMain:
    """On a machine that has a device; the parts leave what they are told to."""

    @pytest.fixture
    def main(self, monkeypatch, tmp_path, capsys):
        """Runs it; gives the exit code, what it printed and the runner's arguments."""
        monkeypatch.setattr(gpu_run, "refusal", lambda: None)
        monkeypatch.chdir(tmp_path)

        def call(outcome, *arguments):
            seen = {}

            def run(runner, steps):
                seen["steps"] = [step.name for step in steps]
                seen["results"], seen["budget_s"] = runner.results, runner.budget_s
                runner.results.mkdir(exist_ok=True)
                records.Part("heads", "title", "done").write(runner.results / "heads.json")
                if isinstance(outcome, BaseException):
                    raise outcome
                return outcome

            monkeypatch.setattr(gpu_run.Runner, "run", run)
            code = gpu_run.main(["--results", "here", *arguments])
            return code, capsys.readouterr().out.splitlines(), seen

        return call

    def test_all_of_it(self, main, tmp_path):
        code, lines, seen = main(True)
        assert code == 0 and "heads: done" in lines and "norms: not run" in lines
        assert seen["steps"] == [step.name for step in plan.STEPS]
        # Children run elsewhere.
        assert seen["results"] == tmp_path / "here" and seen["budget_s"] == plan.BUDGET_S

    def test_some_of_it(self, main):
        code, lines, seen = main(True, "--only", "norms", "--only", "heads", "--budget-s", "30")
        assert code == 0 and lines == ["norms: not run", "heads: done"]
        assert seen["steps"] == ["norms", "heads"] and seen["budget_s"] == 30

    @pytest.mark.parametrize("outcome", [False, KeyboardInterrupt()], ids=["failed", "interrupted"])
    def test_what_there_is_is_told_however_it_ends(self, main, outcome):
        code, lines, _ = main(outcome)
        assert code == 1 and "heads: done" in lines


class TestRefusal:
    def test_no_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        assert "has no torch; pass PYTHON=" in gpu_run.refusal()

    def test_a_device(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert gpu_run.refusal() is None


class Clock:
    """Time passes where a part says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class TestRun:
    """The order, the time and the ends of parts, each a function here."""

    @pytest.fixture
    def run(self, monkeypatch, tmp_path):
        """Runs parts that take, and end, as they are told: {name: (seconds, status)}."""
        clock, self.said, self.limits_s = Clock(), [], {}

        def call(parts, budget_s=plan.BUDGET_S):
            def part(runner, step, limit_s):
                self.limits_s[step.name] = limit_s
                took_s, status = parts[step.name]
                clock.now_s += took_s
                return status, f"as {step.name} says"

            monkeypatch.setattr(gpu_run, "_COMMANDS", dict.fromkeys(parts, part))
            monkeypatch.setattr(plan, "BENCHES", ())
            self.runner = gpu_run.Runner(tmp_path / "results", budget_s, self.said.append, clock)
            return self.runner.run(plan.chosen(list(parts)))

        return call

    def test_what_is_left_is_shared_out_among_those_that_come(self, run):
        assert run({"build": (10, "done"), "tests": (20, "done"), "losses": (5, "done")}, 300)
        build, tests, losses = plan.chosen(["build", "tests", "losses"])
        assert self.limits_s == {
            "build": plan.limit_s(build, [tests, losses], 300),
            "tests": plan.limit_s(tests, [losses], 290),
            "losses": 270,
        }
        assert self.limits_s["tests"] == pytest.approx(290 * 60 / 90)
        assert f"tests: {tests.title} (at most 193 s)" in self.said
        assert len(self.said) == 3

    def test_each_leaves_how_it_ended(self, run):
        assert run({"tests": (20, "done"), "sanitizer": (3, "skipped"), "norms": (7, "overran")})
        found = {name: records.read(self.runner.results / f"{name}.json") for name in self.limits_s}
        ends = {name: (part["status"], part["wall_s"]) for name, part in found.items()}
        assert ends == {"tests": ("done", 20), "sanitizer": ("skipped", 3), "norms": ("overran", 7)}
        assert found["norms"]["reason"] == "as norms says"
        assert found["norms"]["title"] == plan.chosen(["norms"])[0].title
        assert "sanitizer: skipped: as sanitizer says" in self.said

    @pytest.mark.parametrize("status", ["failed", "overran"])
    def test_a_needed_part_that_does_not_end_well_ends_the_run(self, run, status):
        assert not run({"build": (1, status), "heads": (1, "done")})
        assert self.runner.statuses == {"build": status}
        assert records.read(self.runner.results / "build.json")["reason"] == "as build says"
        assert f"build: {status}: as build says" in self.said

    def test_a_part_that_fails_does_not(self, run):
        assert not run({"tests": (1, "failed"), "heads": (1, "done")})
        assert self.runner.statuses == {"tests": "failed", "heads": "done"}

    def test_an_earlier_run_is_set_aside(self, run):
        """Its figures would pass for this one's, its last words for reasons; none of them is lost."""
        run({"build": (1, "done"), "norms": (1, "done"), "heads": (1, "done")})
        results = self.runner.results
        for name in ("build", "norms", "worker"):
            (results / f"{name}.log").write_text("Device not supported")
        kept = (results / "norms.json").read_text()
        run({"build": (1, "failed"), "norms": (1, "done")})
        left = {path.name for path in results.iterdir()}
        # Of the heads nothing was asked.
        assert left == {"build.json", "heads.json", "earlier-1"}
        aside = {path.name for path in (results / "earlier-1").iterdir()}
        assert aside == {"build.json", "norms.json", "build.log", "norms.log", "worker.log"}
        assert (results / "earlier-1" / "norms.json").read_text() == kept
        run({"build": (1, "done")})
        assert [path.name for path in (results / "earlier-2").iterdir()] == ["build.json"]


# Stands for worker.py. Parts called losses never end, those called linears end the process, norms answers and
# ends it.
WORKER = """
import json, os, sys, time
print("noise of a library", flush=True)
for request in sys.stdin:
    name, seconds, path = request.split(maxsplit=2)
    notes = [f"had {float(seconds):.2f} s", f"process {os.getpid()}"]
    notes += [str(os.environ.get("FASTMODEL_CUDA_EMULATE")), os.getcwd()]
    document = {"title": "", "lines": [], "notes": notes, "status": "done", "schema_version": 1}
    document |= {"reason": "", "wall_s": 0.25, "ceilings": {}}
    open(path.strip(), "w").write(json.dumps({"name": name, **document}))
    print("almost done", name, flush=True)
    if name.startswith("losses"):
        time.sleep(60)
    if name.startswith("linears"):
        print("ends badly", file=sys.stderr, flush=True)
        sys.exit(3)
    print("do", end="", flush=True)
    time.sleep(0.3)
    print("ne", name, flush=True)
    if name.startswith("norms"):
        sys.exit(0)
"""


class TestWorker:
    @pytest.fixture
    def runner(self, tmp_path, monkeypatch):
        worker = tmp_path / "worker.py"
        worker.write_text(WORKER)
        results = tmp_path / "results"
        monkeypatch.setenv("FASTMODEL_CUDA_EMULATE", "1")

        def clock():
            """Fast, and once the slow part has left its file, an hour has passed."""
            return 100 * time.monotonic() + 3600 * (results / "losses.json").exists()

        command = (sys.executable, str(worker))
        return gpu_run.Runner(results, 10_000.0, [].append, clock, worker_command=command)

    def run(self, runner, *names):
        steps = [dataclasses.replace(step, share_s=1) for step in plan.chosen(names)]
        is_good = runner.run(steps)
        assert runner._worker is None
        return is_good, {name: records.read(runner.results / f"{name}.json") for name in names}

    def test_a_part_that_overruns_or_dies_leaves_what_it_had_and_the_others_go_on(self, runner):
        is_good, found = self.run(runner, "losses", "optimizers", "linears", "heads")
        assert not is_good
        assert runner.statuses == {
            "losses": "overran",
            "optimizers": "done",
            "linears": "failed",
            "heads": "done",
        }
        assert "stopped after" in found["losses"]["reason"] and found["losses"]["notes"]
        assert "ended with 3; ends badly" in found["linears"]["reason"]
        assert found["optimizers"]["status"] == "done"
        processes = [found[name]["notes"][1] for name in ("losses", "optimizers", "linears")]
        assert processes[0] != processes[1] == processes[2] != found["heads"]["notes"][1]
        # What one that came to an end said is still there when the next one has begun.
        assert "ends badly" in (runner.results / "worker.log").read_text()
        table = "\n".join(summary.table(runner.results, plan.STEPS))
        assert "losses: overran" in table and "norms: not run" in table

    def test_a_part_ends_by_itself_before_it_would_be_stopped(self, runner):
        runner.budget_s = 100.0
        runner.clock = lambda: 0.0
        _, found = self.run(runner, "optimizers", "heads")
        assert found["optimizers"]["notes"][0] == "had 42.50 s"
        assert found["heads"]["notes"][0] == "had 85.00 s"

    def test_a_part_has_a_second_at_least(self, runner):
        runner.results.mkdir()
        runner.clock = lambda: 0.0
        path = runner.results / "heads.json"
        runner._bench(plan.chosen(["heads"])[0], 0.1, path)
        runner.close()
        assert records.read(path)["notes"][0] == "had 1.00 s"

    def test_runs_in_the_checkout_without_emulation_and_keeps_its_own_figures(self, runner):
        is_good, found = self.run(runner, "heads")
        assert is_good and found["heads"]["notes"][2:] == ["None", str(RUN.parents[2])]
        assert found["heads"]["wall_s"] == 0.25

    def test_one_that_is_gone_when_it_is_asked_is_said_to_be(self, runner):
        runner.results.mkdir()
        steps = plan.chosen(["norms", "heads"])
        paths = [runner.results / f"{step.name}.json" for step in steps]
        assert runner._bench(steps[0], 60.0, paths[0]) == ("done", "")
        runner._worker.wait()
        assert runner._bench(steps[1], 60.0, paths[1])[0] == "failed"
        assert runner._bench(steps[1], 60.0, paths[1]) == ("done", "")
        runner.close()

    def test_goes_when_the_run_is_broken_off(self, runner, monkeypatch):
        monkeypatch.setattr(gpu_run.select, "select", interrupted)
        with pytest.raises(KeyboardInterrupt):
            self.run(runner, "heads")
        assert runner._worker is None


def interrupted(*_):
    raise KeyboardInterrupt


# Holds a lock through a child, which ends with it alone.
HOLDS = """
import subprocess, sys
child = '''
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("holds", file=open(sys.argv[2], "w"), flush=True)
time.sleep(120)
'''
subprocess.run([sys.executable, "-c", child, *sys.argv[1:]])
"""


class TestCommand:
    @pytest.fixture
    def runner(self, tmp_path):
        made = gpu_run.Runner(tmp_path / "results", 100.0)
        made.results.mkdir()
        return made

    STEP = plan.chosen(["tests"])[0]

    def python(self, runner, code, limit_s=60.0):
        return runner.command(self.STEP, [sys.executable, "-c", code], limit_s)

    def log(self, runner):
        return (runner.results / "tests.log").read_text()

    def test_its_code_and_last_line_tell_how_it_ended(self, runner):
        assert self.python(runner, "") == ("done", "")
        assert self.python(runner, "raise SystemExit(2)") == (
            "failed",
            "exit code 2; it said nothing",
        )
        code = "print('.....F\\n3 failed\\n  '); raise SystemExit(1)"
        assert self.python(runner, code) == ("failed", "exit code 1; 3 failed")

    def test_all_that_it_says_is_in_one_log(self, runner):
        self.python(runner, "print('first')")
        self.python(runner, "import sys; print('second', file=sys.stderr)")
        assert self.log(runner) == "first\nsecond\n"

    def test_runs_in_the_checkout_without_emulation(self, runner, monkeypatch, tmp_path):
        monkeypatch.setenv("FASTMODEL_CUDA_EMULATE", "1")
        monkeypatch.chdir(tmp_path)
        self.python(
            runner, "import os; print(os.getcwd(), os.environ.get('FASTMODEL_CUDA_EMULATE'))"
        )
        assert self.log(runner) == f"{RUN.parents[2]} None\n"

    @pytest.mark.parametrize("limit_s", [7.0, 0.0])
    def test_has_its_limit_and_a_second_at_least(self, runner, monkeypatch, limit_s):
        waits = []

        def wait(process, timeout=None):
            waits.append(timeout)
            return real(process)

        real = subprocess.Popen.wait
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        assert self.python(runner, "", limit_s) == ("done", "")
        assert waits[0] == max(limit_s, 1.0)

    @pytest.mark.parametrize("end", [subprocess.TimeoutExpired, KeyboardInterrupt])
    def test_its_children_go_with_it(self, runner, monkeypatch, tmp_path, end):
        lock, mark = tmp_path / "lock", tmp_path / "mark"

        def wait(process, timeout=None):
            """The limit passes, or the user gives up, once the child is there."""
            if timeout is None:  # it has been killed
                return real(process, 30)
            eventually(mark.exists)
            raise end(process.args, timeout) if end is subprocess.TimeoutExpired else end

        real = subprocess.Popen.wait
        monkeypatch.setattr(subprocess.Popen, "wait", wait)
        command = [sys.executable, "-c", HOLDS, str(lock), str(mark)]
        if end is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                runner.command(self.STEP, command, 5.0)
        else:
            status, reason = runner.command(self.STEP, command, 5.0)
            assert status == "overran" and "after 5 s; see tests.log" in reason
        with lock.open() as file:
            eventually(lambda: is_free(file))


def eventually(is_so):
    """Wait for what another process does."""
    for _ in range(1000):
        if is_so():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def is_free(file) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


class Recorder(gpu_run.Runner):
    """Runs nothing: commands end as they are told to, and take 10 s each."""

    def __init__(self, results, *ends) -> None:
        super().__init__(results, 100.0, clock=Clock())
        results.mkdir(exist_ok=True)
        self.ends, self.commands, self.limits_s = list(ends), [], []

    def command(self, step, command, limit_s):
        self.commands.append(list(command))
        self.limits_s.append(limit_s)
        self.clock.now_s += 10.0
        status, words = self.ends.pop(0) if self.ends else ("done", "")
        self.log(step.name).write_text(words)
        return status, "" if status == "done" else "its reason"


class TestBuild:
    STEP = plan.STEPS[0]

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setattr(gpu_run, "ROOT", tmp_path)
        monkeypatch.setattr(gpu_run, "tool", lambda name: f"/bin/{name}")
        monkeypatch.setattr(gpu_run, "pybind11_folder", lambda: "/pybind11")
        folder = tmp_path / "build" / f"gpu-{sys.implementation.cache_tag}"
        folder.mkdir(parents=True)
        (tmp_path / "fastmodel").mkdir()
        for name in ("_C.cpython.so", "_cuda.cpython.so", "libother.so"):
            (folder / name).write_text(name)
        return tmp_path

    def test_configures_compiles_and_puts_the_extensions_beside_the_sources(self, root):
        runner = Recorder(root / "results")
        assert gpu_run.build(runner, self.STEP, 100.0) == ("done", "")
        configure, compile_ = runner.commands
        folder = str(root / "build" / f"gpu-{sys.implementation.cache_tag}")
        assert configure[:5] == ["/bin/cmake", "-S", str(root), "-B", folder]
        assert {
            "-DFASTMODEL_CUDA=ON",
            "-DFASTMODEL_CUDA_EMULATED=OFF",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-Dpybind11_DIR=/pybind11",
        } < set(configure)
        assert compile_ == ["/bin/cmake", "--build", folder, "--target", "_C", "_cuda"]
        # The second has what the first left.
        assert runner.limits_s == [100.0, 90.0]
        found = {path.name for path in (root / "fastmodel").iterdir()}
        assert found == {"_C.cpython.so", "_cuda.cpython.so"}

    def test_does_not_go_on_behind_an_error(self, root):
        runner = Recorder(root / "results", ("failed", ""))
        assert gpu_run.build(runner, self.STEP, 100.0) == ("failed", "its reason")
        assert len(runner.commands) == 1 and not list((root / "fastmodel").iterdir())

    def test_what_did_not_compile_is_not_taken(self, root):
        runner = Recorder(root / "results", ("done", ""), ("failed", ""))
        assert gpu_run.build(runner, self.STEP, 100.0) == ("failed", "its reason")
        assert not list((root / "fastmodel").iterdir())


def test_the_tests_are_those_for_gpus(tmp_path):
    runner = Recorder(tmp_path, ("overran", ""))
    assert gpu_run.tests(runner, plan.STEPS[1], 60.0) == ("overran", "its reason")
    (command,) = runner.commands
    assert command[:3] == [sys.executable, "-m", "pytest"]
    assert command[-2:] == ["tests/gpu", "tests/cuda"] and runner.limits_s == [60.0]
    assert all((RUN.parents[2] / folder).is_dir() for folder in command[-2:])


class TestSanitizer:
    STEP = plan.STEPS[2]

    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        self.places = {None: "/bin/compute-sanitizer", "/usr/local/cuda/bin": None}
        monkeypatch.setattr(gpu_run.shutil, "which", lambda name, path=None: self.places[path])

    def run(self, tmp_path, *ends):
        runner = Recorder(tmp_path, *ends)
        return gpu_run.sanitizer(runner, self.STEP, 100.0), runner

    def test_memcheck_then_racecheck(self, tmp_path):
        answer, runner = self.run(tmp_path)
        assert answer == ("done", "")
        kinds = [command[command.index("--tool") + 1] for command in runner.commands]
        assert kinds == ["memcheck", "racecheck"]
        for command in runner.commands:
            assert command[0] == "/bin/compute-sanitizer"
            # What it finds must not end well, in pytest's process or another.
            assert command[command.index("--error-exitcode") + 1] not in ("0", "1")
            assert command[command.index("--target-processes") + 1] == "all"
            assert (RUN.parents[2] / command[-1]).is_file()
        # Half the time, then all that is left.
        assert runner.limits_s == [50.0, 90.0]

    def test_what_it_finds_fails(self, tmp_path):
        answer, runner = self.run(tmp_path, ("failed", "Invalid __global__ write"))
        assert answer == ("failed", "memcheck: its reason") and len(runner.commands) == 1

    def test_a_device_that_it_cannot_look_into(self, tmp_path):
        answer, runner = self.run(tmp_path, ("failed", "Error: Device not supported"))
        assert answer[0] == "skipped" and "does not support the device" in answer[1]
        answer, runner = self.run(tmp_path, ("done", "test of Device not supported"))
        assert answer == ("done", "") and len(runner.commands) == 2

    def test_is_looked_for_beside_cuda(self, tmp_path):
        self.places = {None: None, "/usr/local/cuda/bin": "/usr/local/cuda/bin/compute-sanitizer"}
        answer, runner = self.run(tmp_path)
        assert answer == ("done", "") and runner.commands[0][0].startswith("/usr/local/cuda")

    def test_none_is_said(self, tmp_path):
        self.places = {None: None, "/usr/local/cuda/bin": None}
        answer, runner = self.run(tmp_path)
        assert answer[0] == "skipped" and "no compute-sanitizer" in answer[1]
        assert not runner.commands


def test_children_see_the_checkout_and_no_emulation(monkeypatch):
    for name in ("FASTMODEL_CUDA_EMULATE", "TRITON_INTERPRET", "PYTHONHOME"):
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("KEPT", "as it is")
    found = gpu_run.environment()
    assert found["PYTHONPATH"] == f"{RUN.parents[2]}{os.pathsep}elsewhere"
    assert not {"FASTMODEL_CUDA_EMULATE", "TRITON_INTERPRET", "PYTHONHOME"} & found.keys()
    # What a child says is in its log when it is killed.
    assert found["PYTHONUNBUFFERED"] == "1" and found["KEPT"] == "as it is"
    monkeypatch.delenv("PYTHONPATH")
    assert gpu_run.environment()["PYTHONPATH"] == str(RUN.parents[2])


class TestTools:
    @pytest.fixture(autouse=True)
    def interpreter(self, tmp_path, monkeypatch):
        self.folder = tmp_path
        monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
        monkeypatch.setattr(
            shutil, "which", lambda name: f"/bin/{name}" if name == "cmake" else None
        )

    def test_the_one_beside_the_interpreter_comes_first(self):
        assert gpu_run.tool("cmake") == "/bin/cmake"
        (self.folder / "cmake").touch()
        assert gpu_run.tool("cmake") == str(self.folder / "cmake")

    def test_none_is_said(self):
        with pytest.raises(SystemExit, match=r"there is no ninja; install it for .*python"):
            gpu_run.tool("ninja")

    def test_pybind11(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pybind11", None)
        with pytest.raises(SystemExit, match="has no pybind11; install it there"):
            gpu_run.pybind11_folder()


class TestEnd:
    def started(self, code="import time; time.sleep(120)", **options):
        return subprocess.Popen([sys.executable, "-c", code], start_new_session=True, **options)

    def test_one_that_does_not_want_to(self, tmp_path):
        mark = tmp_path / "mark"
        code = f"""
            import signal, time
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            open({str(mark)!r}, "w").close()
            time.sleep(20)
        """
        process = self.started(textwrap.dedent(code))
        eventually(mark.exists)
        gpu_run.end(process)
        assert process.returncode == -signal.SIGKILL

    def test_one_that_is_gone_with_words_for_it_left(self):
        process = self.started("", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process.wait()
        process.stdin.write("too late")
        gpu_run.end(process)
        assert process.stdin.closed and process.stdout.closed


def test_a_mark_keeps_what_was_measured(tmp_path):
    path, step = tmp_path / "heads.json", plan.chosen(["heads"])[0]
    part = records.Part("heads", "title", notes=["kept"], wall_s=1.0)
    part.lines.append(records.Line("op", "case", {"auto": 1.0}))
    part.write(path)
    gpu_run._mark(path, step, "overran", "why", 30.0)
    found = json.loads(path.read_text())
    assert found["notes"] == ["kept"] and found["lines"][0]["median_ms"] == {"auto": 1.0}
    assert (found["status"], found["reason"], found["wall_s"]) == ("overran", "why", 30.0)
