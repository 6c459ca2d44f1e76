"""What does sampling the hardware cost a training step? The seed's CNN, telemetry on and off in turns.

    python benchmarks/studies/telemetry_overhead.py [--pairs 300] [--window-s 0.2] [--out FILE]

Both sides run the same loop; beside one of them a sampler is at work at its default period, with every source
that this machine has. It is started and ended between windows, as a run starts and ends it once. The ratio is
time with over time without (the geometric mean of a round's two windows), round by round, with its 95 %
interval; beside it the loop against itself.
Windows are short and many, because the host's own noise is larger than what is looked for. Run it on a
quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

from fastmodel.harness.environment import environment
from fastmodel.harness.telemetry import PERIOD_S, Sampler, sources_for
from fastmodel.harness.workloads import Options, default_arms
from fastmodel.harness.workloads.mnist_cnn import MnistCnn
from fastmodel.harness.workloads.protocol import endless_batches
from fastmodel.timing import interleave, mean_ratio, now_s, paired_ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--window-s", type=float, default=0.2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    run = training()
    run(20)
    start_s = now_s()
    run(20)
    steps = max(1, round(arguments.window_s * 20 / (now_s() - start_s)))

    with contextlib.ExitStack() as sampling:

        def sample() -> None:
            sampling.close()
            sources, missing = sources_for("cpu")
            sampling.enter_context(Sampler(sources, missing=missing))

        arms = {name: lambda: run(steps) for name in ("without", "with", "without again")}
        before_each = dict.fromkeys(arms, sampling.close) | {"with": sample}
        samples = list(interleave(arms, arguments.pairs, before_each=before_each))
    cost = mean_ratio(
        [
            math.sqrt(a * b)
            for a, b in zip(
                paired_ratios(samples, "with", "without"),
                paired_ratios(samples, "with", "without again"),
                strict=True,
            )
        ]
    )
    noise = mean_ratio(paired_ratios(samples, "without again", "without"))
    print(f"with over without: {cost.value:.4f} [{cost.low:.4f}, {cost.high:.4f}]")
    print(f"without over itself: {noise.value:.4f} [{noise.low:.4f}, {noise.high:.4f}]")
    if arguments.out is not None:
        document = {
            "environment": dataclasses.asdict(environment()),
            "period_s": PERIOD_S,
            "steps_per_window": steps,
            "with_over_without": dataclasses.asdict(cost),
            "without_over_itself": dataclasses.asdict(noise),
            "samples": [dataclasses.asdict(sample) for sample in samples],
        }
        arguments.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def training() -> Callable[[int], None]:
    """A function that trains the seed's CNN for so many steps, in plain eager mode."""
    options = Options()
    workload = MnistCnn(options)
    loop = default_arms(workload)[0].build(workload, options)
    batches = endless_batches(loop.place(workload.train), options.batch_size, options.seed)

    def run(steps: int) -> None:
        for _ in range(steps):
            loop.step(*next(batches))

    return run


if __name__ == "__main__":
    main()
