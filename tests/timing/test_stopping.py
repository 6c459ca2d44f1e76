"""The rule of stopping: why it ends, when it looks, and that looking often does not spoil intervals."""

import numpy as np
import pytest
from support.simulate import ar1

from fastmodel.errors import InputError
from fastmodel.timing import Stopping, bootstrap_interval


def ratios(count, spread=0.005, seed=0):
    return np.exp(spread * np.random.default_rng(seed).standard_normal(count)).tolist()


def test_a_fixed_number_of_pairs():
    rule = Stopping(pairs=8)
    assert rule.reason(ratios(7), 1e9) is None
    assert rule.reason(ratios(8), 0.0) == "all 8 pairs are timed"


def test_narrow_enough_takes_two_looks():
    rule = Stopping(pairs=8, max_pairs=100, half_width=0.05)
    assert all(rule.reason(ratios(count), 1e9) is None for count in range(10))
    assert rule.reason(ratios(10), 0.0) == "the interval is narrow enough: within 5 %"
    assert rule.reason(ratios(11), 0.0) is None  # it does not look here
    wide_at_first = [*ratios(8, spread=0.5), *ratios(2, spread=1e-6)]
    assert rule.reason(wide_at_first, 0.0) is None
    wide_at_last = [*ratios(8), 1.02, 1.02]
    assert rule.reason([*ratios(8), *ratios(2, spread=0.002)], 0.0) is not None
    assert rule.reason(wide_at_last, 0.0) is None
    assert rule.reason(ratios(10, spread=0.5), 0.0) is None


def test_the_budget_ends_it_but_never_before_the_fewest_pairs():
    rule = Stopping(pairs=8, max_pairs=100, half_width=0.001, budget_s=60)
    assert rule.reason(ratios(7), 61.0) is None
    assert rule.reason(ratios(9), 59.0) is None
    assert rule.reason(ratios(9), 60.0) == "the budget of 60 s is spent"
    assert rule.reason(ratios(100, spread=0.5), 0.0) == "all 100 pairs are timed"


def test_it_looks_after_every_fourth_more():
    rule = Stopping(pairs=16, max_pairs=1000, half_width=0.5)
    assert rule._looks(16) == [16]
    assert rule._looks(50) == rule._looks(61) == [16, 20, 25, 32, 40, 50]
    assert rule._looks(62)[-1] == 50 and rule._looks(63)[-1] == 63


def test_intervals_at_the_stop_still_hold_the_truth():
    rule = Stopping(pairs=16, max_pairs=200, half_width=0.015)
    hits, lengths = 0, []
    for seed in range(200):
        series = np.exp(0.04 * ar1(200, 0.3, np.random.default_rng(seed))).tolist()
        count = next(n for n in range(16, 201) if rule.reason(series[:n], 0.0))
        low, high = bootstrap_interval(series[:count], 1_000)
        hits += low <= 1.0 <= high
        lengths.append(count)
    assert hits >= 184
    assert len(set(lengths)) > 4  # it stops when the samples say so


@pytest.mark.parametrize(
    "arguments",
    [{"pairs": 0}, {"pairs": 8, "max_pairs": 7}, {"pairs": 8, "half_width": 0.0}],
)
def test_a_rule_without_sense_is_refused(arguments):
    with pytest.raises(InputError, match="stopping"):
        Stopping(**arguments)
