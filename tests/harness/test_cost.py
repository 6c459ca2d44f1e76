from __future__ import annotations

import re

import pytest

from fastmodel.errors import InputError
from fastmodel.harness import cost
from fastmodel.harness.records import Arm, CostRate, Interval

RATE = CostRate(3.6, "test", "here", None)


def arm(**fields) -> Arm:
    return Arm("eager", "", False, **fields)


def test_cost_is_seconds_times_the_rate():
    timed = arm(throughput_samples_per_s=Interval(100.0, (90.0, 110.0)), train_time_s=50.0)
    result = cost.with_cost(timed, RATE, train_samples=2_000)
    # 3.60 USD an hour is 0.1 cent a second.
    assert result.cost_usd_per_epoch == pytest.approx(20 * 0.001)
    assert result.cost_usd_total == pytest.approx(50 * 0.001)
    assert result.missing == {}


def test_without_a_rate_the_reason_says_how_to_give_one():
    result = cost.with_cost(arm(train_time_s=1.0), None, 10)
    assert result.cost_usd_per_epoch is None and result.cost_usd_total is None
    assert result.missing["cost_usd_total"] == cost.NO_RATE
    assert result.missing["cost_usd_per_epoch"] == cost.NO_RATE


def test_what_was_not_measured_costs_none_not_0():
    result = cost.with_cost(arm(missing={"train_time_s": "not trained: why"}), RATE, 10)
    assert result.cost_usd_per_epoch is None and result.cost_usd_total is None
    assert result.missing["cost_usd_per_epoch"] == "the arm was not timed"
    assert result.missing["cost_usd_total"] == "not trained: why"


def test_prices_are_dated_and_sourced():
    prices = cost.prices()
    assert "c5.large" in prices and "g5.xlarge" in prices
    for rate in prices.values():
        assert 0 < rate.rate_usd_per_h < 1_000
        assert rate.source.startswith("https://")
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", rate.as_of)


def test_rates_resolve():
    assert cost.resolve_rate(None, None) is None
    assert cost.resolve_rate(1e5, None).rate_usd_per_h == 1e5
    assert cost.resolve_rate(None, "c5.large") == cost.prices()["c5.large"]


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1.1e5])
def test_absurd_rates_are_refused(rate):
    with pytest.raises(InputError, match="must be above 0 and at most 100000"):
        cost.resolve_rate(rate, None)


def test_a_rate_and_an_instance_are_one_too_many():
    with pytest.raises(InputError, match="pass one of them"):
        cost.resolve_rate(1.0, "c5.large")


def test_an_unlisted_instance_names_the_listed_ones():
    with pytest.raises(InputError, match=r"'c9\.tiny' is not listed; use one of: .*c5\.large"):
        cost.resolve_rate(None, "c9.tiny")
