"""Does the gate of `fastmodel compare` hold? Runs alike must pass, a planted slowdown must be caught.

    python benchmarks/studies/gate.py FOLDER --runs 4            # 4 runs alike, one after the other
    python benchmarks/studies/gate.py FOLDER --runs 4 --slow     # 4 runs with fastmodel's arm 5 % slower
    python benchmarks/studies/gate.py FOLDER --result FILE       # compare them all, write the result

The first run in FOLDER is the old report; each other one is held against it with `--fail-below 0.97`.
Runs that are there are kept, so that the study may be made in pieces. The slowdown is planted in the step
of fastmodel's arm: after each step it waits until 1/0.95 of the step's time has passed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from fastmodel import cli
from fastmodel.harness.compare import compare
from fastmodel.harness.store import load_report
from fastmodel.harness.workloads import arms

BOUND = 0.97
SLOWER = 0.95
BENCH = "bench mnist-cnn --train none --pairs 24 --window-s 0.12 --half-width 0.01 --budget-s 45"


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


def measure(folder: Path, runs: int, slow: bool) -> None:
    if slow:
        plant()
    kind = "slow" if slow else "alike"
    done = len(list(folder.glob(f"{kind}-*")))
    for number in range(done, done + runs):
        place = folder / f"{kind}-{number:02d}"
        start_s = time.perf_counter()
        code = cli.main([*BENCH.split(), "--out", str(place)])
        print(f"{place.name}: {time.perf_counter() - start_s:.1f} s", flush=True)
        if code != 0:
            sys.exit(code)


def finished(folder: Path, kind: str) -> list[Path]:
    """The runs of a kind that came to their end; one that was cut off compares nothing."""
    return [
        place
        for place in sorted(folder.glob(f"{kind}-*"))
        if (place / "report.json").exists() and load_report(place).complete
    ]


def judge(folder: Path, path: Path) -> None:
    """Every run against the first one."""
    first, *alike = finished(folder, "alike")
    old = load_report(first)
    result: dict = {"bound": BOUND, "planted": SLOWER, "command": f"fastmodel {BENCH}"}
    result["environment"] = {
        "cpu": old.environment.cpu_model,
        "cores": old.environment.cpu_count,
        "torch": old.environment.torch_version,
    }
    result["old"] = {"speedup": old.speedup.estimate, "ci95": old.speedup.ci95}
    for kind, places in (("alike", alike), ("slow", finished(folder, "slow"))):
        rows = []
        for place in places:
            new = load_report(place)
            gate = compare(old, new, BOUND).gate
            rows.append(
                {
                    "run": place.name,
                    "ratio": round(gate.ratio.estimate, 4),
                    "ci95": [round(end, 4) for end in gate.ratio.ci95],
                    "failed": not gate.passed,
                    "pairs": new.speedup.pairs,
                    "duration_s": round(new.duration_s, 1),
                    "stopped": new.method.stopped,
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
        measure(arguments.folder, arguments.runs, arguments.slow)
    if arguments.result:
        judge(arguments.folder, arguments.result)
