"""`make gpu`: build, test and measure on this machine's GPU, within 8 minutes, without network or a venv.

Everything runs under the interpreter that runs this. Each part leaves RESULTS/<part>.json as it goes, so that
what was measured before a part overran, failed or was interrupted is there; the table at the end is of what
there is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import plan  # noqa: E402
import summary  # noqa: E402
from records import Part, read  # noqa: E402

_GLANCE_S = 0.1
"""How often the runner looks at the clock while a part is measured."""

_SANITIZED = ("tests/gpu/test_sanitized.py",)
"""What compute-sanitizer runs: it slows a kernel down by tens of times."""


@dataclass
class Runner:
    """One run."""

    results: Path
    budget_s: float
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic
    statuses: dict[str, str] = field(default_factory=dict)
    worker_command: Sequence[str] = (sys.executable, str(HERE / "worker.py"))
    _worker: subprocess.Popen | None = None

    def run(self, steps: Sequence[plan.Step]) -> bool:
        """Do the steps; False where one failed, or a needed one did not end well."""
        started_s = self.clock()
        self._set_aside(steps)
        try:
            for index, step in enumerate(steps):
                left_s = self.budget_s - (self.clock() - started_s)
                limit_s = plan.limit_s(step, steps[index + 1 :], left_s)
                self.say(f"{step.name}: {step.title} (at most {limit_s:.0f} s)")
                status, reason = self._one(step, limit_s)
                self.statuses[step.name] = status
                if status != "done":
                    self.say(f"{step.name}: {status}: {reason}")
                    if step.is_needed:
                        return False
        finally:
            self.close()
        return "failed" not in self.statuses.values()

    def _set_aside(self, steps: Sequence[plan.Step]) -> None:
        """An earlier run's figures and last words are not this one's: they get a folder of their own."""
        self.results.mkdir(parents=True, exist_ok=True)
        ours = [self.results / f"{step.name}.json" for step in steps]
        ours += [self.log(name) for name in (*(step.name for step in steps), "worker")]
        earlier = [path for path in ours if path.exists()]
        if earlier:
            folders = (self.results / f"earlier-{number}" for number in itertools.count(1))
            folder = next(folder for folder in folders if not folder.exists())
            folder.mkdir()
            for path in earlier:
                path.rename(folder / path.name)

    def log(self, name: str) -> Path:
        """What a part, or the worker, said."""
        return self.results / f"{name}.log"

    def _one(self, step: plan.Step, limit_s: float) -> tuple[str, str]:
        path = self.results / f"{step.name}.json"
        started_s = self.clock()
        if step.name in plan.BENCHES:
            status, reason = self._bench(step, limit_s, path)
        else:
            status, reason = _COMMANDS[step.name](self, step, limit_s)
        if status != "done" or step.name not in plan.BENCHES:
            _mark(path, step, status, reason, self.clock() - started_s)
        return status, reason

    def command(self, step: plan.Step, command: Sequence[str], limit_s: float) -> tuple[str, str]:
        """Run a command, its output in RESULTS/<part>.log; killed with all its children at the limit."""
        log = self.log(step.name)
        with log.open("ab") as file:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment(),
                start_new_session=True,
            )
            try:
                code = process.wait(max(1.0, limit_s))
            except subprocess.TimeoutExpired:
                end(process)
                return "overran", f"stopped after {limit_s:.0f} s; see {log.name}"
            except KeyboardInterrupt:  # which a session of its own does not hear
                end(process)
                raise
        if code == 0:
            return "done", ""
        return "failed", f"exit code {code}; {last_line(log)}"

    def _bench(self, step: plan.Step, limit_s: float, path: Path) -> tuple[str, str]:
        """Have the worker measure a part."""
        log = self.log("worker")
        deadline_s = self.clock() + limit_s
        if self._worker is None:
            with log.open("ab") as file:
                self._worker = subprocess.Popen(
                    self.worker_command,
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=file,
                    env=environment(),
                    start_new_session=True,
                    text=True,
                )
        worker = self._worker
        assert worker.stdin is not None and worker.stdout is not None
        try:
            # A part ends by itself a little before it would be stopped.
            print(step.name, max(1.0, 0.85 * limit_s), path, file=worker.stdin, flush=True)
        except BrokenPipeError:
            return self._lost(log)
        said = ""
        while True:
            ready, _, _ = select.select([worker.stdout], [], [], _GLANCE_S)
            if not ready and self.clock() < deadline_s:
                continue
            if not ready:
                self.close()
                return (
                    "overran",
                    f"stopped after {limit_s:.0f} s; what was measured is in {path.name}",
                )
            # Not by lines: one that waits in a buffer of Python's is nothing that `select` sees.
            heard = os.read(worker.stdout.fileno(), 1 << 16)
            if not heard:
                return self._lost(log)
            said += heard.decode(errors="replace")
            if f"done {step.name}" in said.splitlines():
                return "done", ""

    def _lost(self, log: Path) -> tuple[str, str]:
        assert self._worker is not None
        code = self._worker.wait()
        self.close()
        return "failed", f"the measuring process ended with {code}; {last_line(log)}"

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            end(self._worker)
            self._worker = None


def build(runner: Runner, step: plan.Step, limit_s: float) -> tuple[str, str]:
    """Configure, compile, and put the extensions beside the sources."""
    started_s = runner.clock()
    folder = ROOT / "build" / f"gpu-{sys.implementation.cache_tag}"
    configure = [
        *(tool("cmake"), "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
        *("-DCMAKE_BUILD_TYPE=Release", "-DFASTMODEL_CUDA=ON", "-DFASTMODEL_CUDA_EMULATED=OFF"),
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11_folder()}",
    ]
    compile_ = [tool("cmake"), "--build", str(folder), "--target", "_C", "_cuda"]
    for command in (configure, compile_):
        left_s = limit_s - (runner.clock() - started_s)
        status, reason = runner.command(step, command, left_s)
        if status != "done":
            return status, reason
    for extension in folder.glob("_*.so"):
        shutil.copy2(extension, ROOT / "fastmodel")
    return "done", ""


def tests(runner: Runner, step: plan.Step, limit_s: float) -> tuple[str, str]:
    """tests/gpu and tests/cuda, on the device."""
    options = ("-q", "-p", "no:cacheprovider", "--maxfail=20")
    command = [sys.executable, "-m", "pytest", *options, "tests/gpu", "tests/cuda"]
    return runner.command(step, command, limit_s)


def sanitizer(runner: Runner, step: plan.Step, limit_s: float) -> tuple[str, str]:
    """memcheck, then racecheck, over a short list of tests."""
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )
    if found is None:
        return "skipped", "there is no compute-sanitizer on this machine"
    started_s = runner.clock()
    for index, kind in enumerate(("memcheck", "racecheck")):
        left_s = (limit_s - (runner.clock() - started_s)) / (2 - index)
        command = [
            *(found, "--tool", kind, "--error-exitcode", "9", "--target-processes", "all"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *_SANITIZED),
        ]
        status, reason = runner.command(step, command, left_s)
        log = runner.log(step.name)
        if status == "failed" and "Device not supported" in log.read_text(errors="replace"):
            return (
                "skipped",
                "compute-sanitizer does not support the device as it is virtualised here",
            )
        if status != "done":
            return status, f"{kind}: {reason}"
    return "done", ""


_COMMANDS: dict[str, Callable[[Runner, plan.Step, float], tuple[str, str]]] = {
    "build": build,
    "tests": tests,
    "sanitizer": sanitizer,
}


def environment() -> dict[str, str]:
    """Of the children: the checkout's own package, and nothing fetched or emulated."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONHOME")}
    kept.pop("FASTMODEL_CUDA_EMULATE", None)
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def tool(name: str) -> str:
    """A program beside the interpreter, or on the PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SystemExit(f"make gpu: there is no {name}; install it for {sys.executable}")
    return found


def pybind11_folder() -> str:
    """Where pybind11 keeps its CMake files."""
    try:
        import pybind11
    except ImportError:
        raise SystemExit(
            f"make gpu: {sys.executable} has no pybind11; install it there, or pass PYTHON="
        ) from None
    return pybind11.get_cmake_dir()


def end(process: subprocess.Popen) -> None:
    """Stop a process that leads a session, and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def last_line(log: Path) -> str:
    """What a log ends with."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"


def _mark(path: Path, step: plan.Step, status: str, reason: str, wall_s: float) -> None:
    """Note in the part's file how it ended; what it holds otherwise stays."""
    known = read(path) or {}
    names = Part.__dataclass_fields__
    part = Part(**{"name": step.name, "title": step.title, **_only(known, names)})
    part.status, part.reason, part.wall_s = status, reason, wall_s
    part.write(path)


def _only(known: dict, names) -> dict:
    return {name: value for name, value in known.items() if name in names}


def refusal() -> str | None:
    """Why nothing can be run here, in one line; None where it can."""
    try:
        import torch
    except ImportError:
        return f"{sys.executable} has no torch; pass PYTHON=, the interpreter that has"
    if not torch.cuda.is_available():
        return "no CUDA device: torch.cuda.is_available() is False; nothing was built"
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, refuse, run, print the table."""
    parser = argparse.ArgumentParser(prog="make gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "reports" / "gpu")
    parser.add_argument("--budget-s", type=float, default=plan.BUDGET_S)
    parser.add_argument("--only", action="append", default=[], metavar="PART")
    parser.add_argument("--dry-run", action="store_true", help="list the parts and their time")
    options = parser.parse_args(arguments)
    try:
        steps = plan.chosen(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.budget_s <= 0:
        parser.error(f"--budget-s must be above 0, got {options.budget_s:g}")
    if options.dry_run:
        for line in summary.plan_lines(steps, options.budget_s):
            print(line)
        return 0
    reason = refusal()
    if reason is not None:
        print(f"make gpu: {reason}", file=sys.stderr)
        return 1
    runner = Runner(options.results.resolve(), options.budget_s)
    try:
        is_good = runner.run(steps)
    except KeyboardInterrupt:
        is_good = False
    for line in summary.table(options.results, steps):
        print(line)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
