"""Series whose truth is known."""

from __future__ import annotations

import numpy as np


def ar1(count: int, rho: float, generator: np.random.Generator) -> np.ndarray:
    """`count` samples of a stationary AR(1) series of mean 0 and variance 1."""
    noise = generator.standard_normal(count) * np.sqrt(1 - rho * rho)
    series = np.empty(count)
    series[0] = noise[0] / np.sqrt(1 - rho * rho)
    for index in range(1, count):
        series[index] = rho * series[index - 1] + noise[index]
    return series
