"""Intervals against scipy, against theory, and against the truth on simulated series."""

import math

import numpy as np
import pytest
import scipy.stats
from support.simulate import ar1

from fastmodel.errors import InputError
from fastmodel.timing import (
    Estimate,
    block_length,
    bootstrap_interval,
    geometric_mean,
    half_width,
    mean_of_groups,
    mean_ratio,
    quotient,
    statistics,
)


def test_geometric_mean_of_known_values():
    assert geometric_mean([1.0, 4.0, 16.0]) == pytest.approx(4.0)
    assert geometric_mean([2.0, 0.5]) == pytest.approx(1.0)


@pytest.mark.parametrize("count", [2, 8, 40])
def test_blocks_of_one_sample_are_scipys_bootstrap(count):
    logs = np.random.default_rng(count).normal(1.0, 0.1, count)
    oracle = scipy.stats.bootstrap(
        (logs,), np.mean, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    low, high = np.quantile(statistics._block_means(logs, 1, 10_000), [0.025, 0.975])
    # Two bootstrap runs of 10,000 and 20,000 differ by a few percent of the interval's width.
    width = oracle.high - oracle.low
    assert low == pytest.approx(oracle.low, abs=0.05 * width)
    assert high == pytest.approx(oracle.high, abs=0.05 * width)


@pytest.mark.parametrize(("count", "length"), [(40, 4), (36, 6), (90, 9)])
def test_longer_blocks_are_scipys_bootstrap_of_block_means(count, length):
    """Drawing n/l circular blocks of n is drawing n/l of n block means; scipy draws n of them."""
    logs = ar1(count, 0.7, np.random.default_rng(count))
    wrapped = np.concatenate([logs, logs])
    means = np.array([wrapped[start : start + length].mean() for start in range(count)])
    oracle = scipy.stats.bootstrap((means,), np.mean, n_resamples=20_000, rng=1)
    expected = oracle.standard_error * math.sqrt(length)
    drawn = statistics._block_means(logs, length, 20_000)
    assert drawn.std() == pytest.approx(expected, rel=0.03)
    assert drawn.mean() == pytest.approx(logs.mean(), abs=0.03 * expected)


def test_a_block_that_does_not_divide_the_series_is_cut():
    """A constant series but for one sample: each draw's mean is a whole number of n-ths."""
    logs = np.zeros(11)
    logs[3] = 11.0
    drawn = statistics._block_means(logs, 4, 2_000)
    assert np.allclose(drawn, drawn.round(), atol=1e-9)
    assert drawn.mean() == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("degrees", [2, 2.5, 3, 5, 10, 30, 200])
def test_t_quantiles_are_scipys(degrees):
    assert statistics._t(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=0.01)


@pytest.mark.parametrize("rho", [-0.5, 0.0, 0.3, 0.8])
def test_variance_of_sums_is_that_of_the_covariance_matrix(rho):
    found = statistics._variances_of_sums(12, rho)
    for size in range(13):
        covariances = rho ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        assert found[size] == pytest.approx(covariances.sum())


@pytest.mark.parametrize(("count", "length", "rho"), [(16, 1, 0.0), (20, 3, 0.5), (64, 7, 0.7)])
def test_what_the_blocks_miss_is_what_simulation_says(count, length, rho):
    generator = np.random.default_rng(5)
    seen = []
    for _ in range(4_000):
        logs = ar1(count, rho, generator)
        wrapped = np.concatenate([logs, logs])
        sums = np.convolve(wrapped, np.ones(length), "valid")[:count]
        seen.append(((sums / length - logs.mean()) ** 2).mean() * length / count)
    true = statistics._variances_of_sums(count, rho)[count] / count**2
    expected = math.sqrt(true / np.mean(seen))
    assert statistics._blocks_blindness(count, length, rho) == pytest.approx(expected, rel=0.03)


def test_autocorrelation_is_nearly_unbiased_where_the_plain_one_is_not():
    generator = np.random.default_rng(2)
    series = [ar1(24, 0.5, generator) for _ in range(2_000)]
    assert np.mean([statistics.autocorrelation(one) for one in series]) == pytest.approx(
        0.5, abs=0.05
    )
    assert statistics.autocorrelation(np.ones(20)) == 0.0
    assert statistics.autocorrelation(np.arange(5.0)) == 0.0


def test_blocks_grow_with_memory_and_alternation_counts_as_such():
    generator = np.random.default_rng(3)

    def mean_length(rho):
        return np.mean([block_length(np.exp(ar1(80, rho, generator))) for _ in range(50)])

    assert mean_length(0.0) < 2.2 < mean_length(0.4) < mean_length(0.8)
    assert mean_length(-0.5) > 3


@pytest.mark.parametrize("count", [32, 100])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_intervals_hold_the_truth_95_times_in_100(count, rho):
    """benchmarks/studies/coverage.py has the whole table; these are its corners, with fewer series."""
    generator = np.random.default_rng([count, round(100 * rho)])
    series, hits = 600, 0
    for _ in range(series):
        values = np.exp(0.05 * ar1(count, rho, generator))
        low, high = bootstrap_interval(values.tolist(), 1_000)
        hits += low <= 1.0 <= high
    assert 0.92 <= hits / series <= 0.98


def test_an_interval_for_independent_samples_would_not():
    """The same series under the percentile bootstrap of single samples: why there are blocks."""
    generator = np.random.default_rng(9)
    hits = 0
    for _ in range(300):
        means = statistics._block_means(ar1(60, 0.6, generator), 1, 500)
        hits += np.quantile(means, 0.025) <= 0 <= np.quantile(means, 0.975)
    assert hits / 300 < 0.8


def test_an_outlier_counts_as_three_deviations_of_the_bulk():
    logs = 0.05 * np.random.default_rng(0).standard_normal(99)
    bulk = 1.4826 * np.median(np.abs(logs - np.median(logs)))
    burst = np.exp([*logs, math.log(2)])
    middle = np.median(np.log(burst))
    reach = 3 * 1.4826 * np.median(np.abs(np.log(burst) - middle))
    expected = np.exp(np.clip(np.log(burst), middle - reach, middle + reach).mean())
    found = mean_ratio(burst.tolist())
    assert found.value == pytest.approx(expected)
    assert found.value < geometric_mean(burst.tolist()) - 0.003
    assert found.high - found.low < 1.3 * 2 * 1.96 * bulk / math.sqrt(100)


def test_neither_few_samples_nor_equal_ones_have_a_bulk():
    few = [1.0, 1.0, 1.1, 0.9, 8.0]
    assert mean_ratio(few).value == pytest.approx(geometric_mean(few))
    mostly_equal = [1.0] * 9 + [2.0]
    assert mean_ratio(mostly_equal).value == pytest.approx(geometric_mean(mostly_equal))


def test_same_samples_give_the_same_interval():
    values = [1.0, 1.1, 0.9, 1.3]
    assert bootstrap_interval(values) == bootstrap_interval(values)


def test_estimate_lies_within_its_interval():
    estimate = mean_ratio([2.0, 2.2, 1.9, 2.5])
    assert estimate.low < estimate.value < estimate.high


def test_one_sample_gives_a_point_and_equal_ones_nearly_so():
    estimate = mean_ratio([3.0])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((3.0, 3.0, 3.0))
    assert bootstrap_interval([2.0] * 20) == pytest.approx((2.0, 2.0))


def test_the_mean_of_groups_is_scipys_t_interval_of_their_means():
    groups = [list(np.exp([level - 0.01, level + 0.01] * 3)) for level in (0.0, 0.03, -0.02, 0.05)]
    found = mean_of_groups(groups)
    means = [np.log(group).mean() for group in groups]
    assert found.value == pytest.approx(math.exp(np.mean(means)))
    oracle = scipy.stats.t.interval(0.95, 3, np.mean(means), scipy.stats.sem(means))
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(oracle)), rel=1e-3)
    # More samples of the same groups make it no surer.
    again = mean_of_groups([group * 10 for group in groups])
    assert (again.low, again.high) == pytest.approx((found.low, found.high))
    with pytest.raises(InputError, match="2 groups tell no spread"):
        mean_of_groups(groups[:2])


def test_an_outlier_in_a_group_is_bounded_there():
    calm = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98]
    burst = [*calm[:-1], 9.0]
    assert mean_of_groups([calm, burst, calm]).value < 1.02


def test_quotient_of_two_runs():
    result = quotient(Estimate(3.0, 2.7, 3.3), Estimate(2.0, 1.9, 2.2))
    assert result.value == pytest.approx(1.5)
    down = math.hypot(math.log(3.0 / 2.7), math.log(2.2 / 2.0))
    up = math.hypot(math.log(3.3 / 3.0), math.log(2.0 / 1.9))
    assert result.low == pytest.approx(1.5 * math.exp(-down))
    assert result.high == pytest.approx(1.5 * math.exp(up))


def test_half_width_is_relative():
    assert half_width(2 / 1.01, 2 * 1.01) == pytest.approx(0.01)


@pytest.mark.parametrize("values", [[], [1.0, 0.0], [1.0, -2.0], [float("nan")], [float("inf")]])
def test_values_without_a_geometric_mean_are_refused(values):
    with pytest.raises(InputError):
        geometric_mean(values)
    with pytest.raises(InputError):
        bootstrap_interval(values)
