"""How often the 95 % intervals hold the truth, on simulated series of ratios.

    python benchmarks/studies/coverage.py benchmarks/results/coverage.json

Series are log-normal AR(1) of known mean, `SERIES` of each length and autocorrelation, from a fixed seed.
The last column is the same under sequential stopping: 16 to 400 pairs, until the half-width
is 1 %.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np

from fastmodel.timing import Stopping, bootstrap_interval

SERIES = 4_000
RESAMPLES = 1_000
LENGTHS = (8, 16, 32, 64, 128)
AUTOCORRELATIONS = (-0.3, 0.0, 0.3, 0.6)
STOPPING = Stopping(pairs=16, max_pairs=400, half_width=0.01)
SPREAD = 0.03


def ar1(count: int, rho: float, generator: np.random.Generator) -> np.ndarray:
    """Logarithms of `count` ratios whose true geometric mean is 1."""
    noise = generator.standard_normal(count) * math.sqrt(1 - rho * rho)
    series = np.empty(count)
    series[0] = noise[0] / math.sqrt(1 - rho * rho)
    for index in range(1, count):
        series[index] = rho * series[index - 1] + noise[index]
    return SPREAD * series


def holds(ratios: list[float]) -> bool:
    low, high = bootstrap_interval(ratios, RESAMPLES)
    return low <= 1.0 <= high


def coverage(count: int, rho: float) -> float:
    generator = np.random.default_rng([count, round(100 * (1 + rho))])
    return sum(holds(np.exp(ar1(count, rho, generator)).tolist()) for _ in range(SERIES)) / SERIES


def coverage_when_stopped(rho: float) -> float:
    generator = np.random.default_rng(round(100 * (1 + rho)))
    hits = 0
    series = SERIES // 4
    for _ in range(series):
        ratios = np.exp(ar1(STOPPING.most, rho, generator)).tolist()
        count = next(n for n in range(16, len(ratios) + 1) if STOPPING.reason(ratios[:n], 0.0))
        hits += holds(ratios[:count])
    return hits / series


def main(path: Path) -> None:
    rows = []
    for rho in AUTOCORRELATIONS:
        by_length = {str(count): coverage(count, rho) for count in LENGTHS}
        rows.append(
            {"autocorrelation": rho, "coverage": by_length, "stopped": coverage_when_stopped(rho)}
        )
        print(rows[-1], flush=True)
    result = {"series": SERIES, "resamples": RESAMPLES, "spread": SPREAD, "rows": rows}
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
