import numpy as np
import pytest
import scipy.stats

from fastmodel.errors import InputError
from fastmodel.timing import bootstrap_interval, geometric_mean, mean_ratio


def test_geometric_mean_of_known_values():
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [2, 8, 40])
def test_interval_agrees_with_scipy(count):
    values = np.exp(np.random.default_rng(count).normal(1.0, 0.1, count))
    oracle = scipy.stats.bootstrap(
        (values,), scipy.stats.gmean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    low, high = bootstrap_interval(values.tolist())
    # Two bootstrap runs of 10,000 and 20,000 differ by a few percent of the interval's width.
    width = oracle.high - oracle.low
    assert low == pytest.approx(oracle.low, abs=0.05 * width)
    assert high == pytest.approx(oracle.high, abs=0.05 * width)


def test_interval_covers_the_truth_nearly_95_times_in_100():
    generator = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        low, high = bootstrap_interval(np.exp(generator.normal(0, 0.2, 30)).tolist(), 1_000)
        hits += low <= 1.0 <= high
    # The percentile bootstrap of 30 samples covers a little under 95 %.
    assert 0.90 <= hits / 500 <= 0.97


def test_same_samples_give_the_same_interval():
    values = [1.0, 1.1, 0.9, 1.3]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_estimate_lies_within_its_interval():
    estimate = mean_ratio([2.0, 2.2, 1.9, 2.5])
    assert estimate.low < estimate.value < estimate.high


def test_one_sample_gives_a_point():
    estimate = mean_ratio([3.0])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((3.0, 3.0, 3.0))


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0], [float("nan")], [float("inf")]])
def test_values_without_a_geometric_mean_are_refused(values):
    with pytest.raises(InputError):
        geometric_mean(values)
    with pytest.raises(InputError):
        bootstrap_interval(values)
