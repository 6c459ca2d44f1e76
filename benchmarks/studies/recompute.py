"""What does `fm.recompute_activations` spare, and what does it cost? Training steps of GPTs, on the CPU.

    python benchmarks/studies/recompute.py [--batch-size 2] [--pairs 8] [--out FILE]

Memory: each arm has a process of its own. After a whole step, which leaves the optimizer's state as it will
stay, the most memory that another forward and backward takes above what was there before, by the kernel's
count of resident pages. Time: forward, backward and step of fastmodel's arm with and without, in turns in one
process; the ratio is time with over time without, with its 95 % interval. `--pairs 0` leaves it out: memory
needs a batch whose activations outweigh the gradients, time a quiet machine.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from fastmodel.harness.environment import environment
from fastmodel.harness.workloads import Options, registry
from fastmodel.harness.workloads.arms import Loop, default_arms
from fastmodel.timing import interleave, mean_ratio, paired_ratios

WORKLOADS = ("gpt-small", "gpt-small-llama")
ARMS = {"eager": ("eager-fused", False), "fastmodel": ("fastmodel", False),
        "fastmodel, recomputing": ("fastmodel", True)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-of", nargs=3, metavar=("WORKLOAD", "AUTOCAST", "ARM"))
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(_peak_bytes(*arguments.peak_of, arguments.batch_size))
        return
    lines = list(_measured(arguments.batch_size, arguments.pairs))
    where = dataclasses.asdict(environment())
    report = json.dumps({"environment": where, "batch_size": arguments.batch_size, "lines": lines})
    print(report)
    if arguments.out is not None:
        arguments.out.write_text(report + "\n", encoding="utf-8")


def _measured(batch_size: int, pairs: int) -> Iterator[dict]:
    for name in WORKLOADS:
        for autocast in ("none", "bfloat16"):
            peaks = {}
            for arm in ARMS:
                command = [sys.executable, __file__, "--batch-size", str(batch_size)]
                asked = subprocess.run(
                    [*command, "--peak-of", name, autocast, arm],
                    capture_output=True, text=True, check=True,
                )  # fmt: skip
                peaks[arm] = int(asked.stdout)
            line = {"workload": name, "autocast": autocast, "peak_bytes": peaks}
            yield line | (_cost(name, autocast, batch_size, pairs) if pairs else {})


def _cost(name: str, autocast: str, batch_size: int, pairs: int) -> dict:
    loop, batch = _loop(name, autocast, "fastmodel", batch_size)

    def step(recomputes: bool) -> None:
        loop.recomputes = recomputes
        loop.step(*batch)

    step(True)
    step(False)
    turns = {"with": lambda: step(True), "without": lambda: step(False)}
    samples = list(interleave(turns, pairs))
    cost = mean_ratio(paired_ratios(samples, "with", "without"))
    return {
        "time_ratio": [cost.value, cost.low, cost.high],
        "times_s": {name: [s.time_s for s in samples if s.arm == name] for name in turns},
    }


def _loop(name: str, autocast: str, arm: str, batch_size: int) -> tuple[Loop, tuple]:
    kind, recomputes = ARMS[arm]
    options = Options(batch_size=batch_size, autocast=autocast, recomputes=recomputes)
    workload = registry.make(name, options)
    (chosen,) = (one for one in default_arms(workload) if one.name == kind)
    head = workload.train.head(batch_size)
    return chosen.build(workload, options), (head.inputs, head.targets)


def _peak_bytes(name: str, autocast: str, arm: str, batch_size: int) -> int:
    loop, (inputs, targets) = _loop(name, autocast, arm, batch_size)
    loop.step(inputs, targets)
    loop.optimizer.zero_grad(set_to_none=True)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status_bytes("VmRSS")
    loop.forward(inputs, targets)[1].backward()
    return _status_bytes("VmHWM") - before


def _status_bytes(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


if __name__ == "__main__":
    main()
