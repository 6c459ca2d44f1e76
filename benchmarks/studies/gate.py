"""Does `fastmodel compare --side-by-side` hold as a gate? Builds alike must pass, a slower one must not.

    python benchmarks/studies/gate.py FOLDER --runs 20           # this installation against itself
    python benchmarks/studies/gate.py FOLDER --runs 10 --slow    # against itself, made 5 % slower
    python benchmarks/studies/gate.py FOLDER --result FILE       # all of them into one result

Every run is the command as a CI would type it, with its exit code. Runs that are there are kept, so that the
study may be made in pieces. The slowdown is planted in the step of fastmodel's arm: after each step it waits
until 1/0.95 of the step's time has passed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fastmodel.harness.environment import environment
from fastmodel.harness.workloads import arms

BOUND = 0.99
SLOWER = 0.95
WORKLOAD = "mnist-cnn"
PASSED, FAILED = 0, 1
KINDS = ("alike", "slow")


def plant() -> None:
    """Slow the step of every arm that is fastmodel's."""
    build = arms._build_fastmodel

    def slowed(workload, options):
        loop = build(workload, options)
        step = loop.step

        def slow(inputs, targets):
            start_s = time.perf_counter()
            loss = step(inputs, targets)
            end_s = start_s + (time.perf_counter() - start_s) / SLOWER
            while time.perf_counter() < end_s:
                pass
            return loss

        loop.step = slow
        return loop

    arms._build_fastmodel = slowed


@contextlib.contextmanager
def slow_interpreter() -> Iterator[Path]:
    """This interpreter, in which fastmodel is slower from the start."""
    with tempfile.TemporaryDirectory() as folder:
        start = f"import runpy; runpy.run_path({str(Path(__file__).resolve())!r})['plant']()\n"
        Path(folder, "sitecustomize.py").write_text(start)
        python = Path(folder, "python")
        python.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        yield python


def run(new: Path) -> dict:
    """One run of the gate: this installation is the old one."""
    command = [
        str(Path(sys.executable).with_name("fastmodel")),
        "compare",
        sys.executable,
        str(new),
    ]
    command += ["--side-by-side", WORKLOAD, "--fail-below", str(BOUND), "--json"]
    start_s = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    time_s = time.perf_counter() - start_s
    if done.returncode not in (PASSED, FAILED):
        sys.exit(done.returncode)
    return {"exit_code": done.returncode, "time_s": time_s, **json.loads(done.stdout)}


def measure(folder: Path, runs: int, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    done = len(list(folder.glob(f"{kind}-*.json")))
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(slow_interpreter()) if kind == "slow" else Path(sys.executable)
        for number in range(done, done + runs):
            found = run(new)
            path = folder / f"{kind}-{number:02d}.json"
            path.write_text(json.dumps(found, indent=2) + "\n")
            ratio, verdict = found["ratio"], "failed" if found["exit_code"] else "passed"
            print(f"{path.stem}: {ratio['estimate']:.3f} {ratio['ci95']} {verdict}", flush=True)


def collect(folder: Path, path: Path) -> None:
    """Every run's verdict and sessions, without the single pairs."""
    result: dict = {
        "command": f"fastmodel compare OLD NEW --side-by-side {WORKLOAD} --fail-below {BOUND}",
        "planted": SLOWER,
        "environment": dataclasses.asdict(environment()),
    }
    for kind in KINDS:
        rows = []
        for place in sorted(folder.glob(f"{kind}-*.json")):
            found = json.loads(place.read_text())
            rows.append(
                {
                    "ratio": round(found["ratio"]["estimate"], 4),
                    "ci95": [round(end, 4) for end in found["ratio"]["ci95"]],
                    "failed": found["exit_code"] == FAILED,
                    "time_s": round(found["time_s"], 1),
                    "step_time_s": [session["step_time_s"] for session in found["sessions"]],
                }
            )
        failed = sum(row["failed"] for row in rows)
        result[kind] = {"runs": len(rows), "failed": failed, "rows": rows}
        print(f"{kind}: {failed} of {len(rows)} failed the gate")
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--slow", action="store_true")
    parser.add_argument("--result", type=Path)
    arguments = parser.parse_args()
    if arguments.runs:
        measure(arguments.folder, arguments.runs, "slow" if arguments.slow else "alike")
    if arguments.result:
        collect(arguments.folder, arguments.result)
