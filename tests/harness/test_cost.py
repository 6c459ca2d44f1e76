from __future__ import annotations

import dataclasses
import re

import pytest

from fastmodel.errors import DataError, InputError
from fastmodel.harness import cost
from fastmodel.harness.records import Arm, CostRate, Electricity, Interval

from .sample_report import full

RATE = CostRate(3.6, "test", "here", None)


def arm(**fields) -> Arm:
    return Arm("eager", "", False, **fields)


def with_cost(arm: Arm, rate: CostRate | None = RATE, electricity=None, **job) -> Arm:
    workload = dataclasses.replace(full().workload, train_samples=2_000, **job)
    return cost.with_cost(arm, rate, electricity, workload)


def test_cost_is_seconds_times_the_rate():
    timed = arm(
        throughput_samples_per_s=Interval(100.0, (90.0, 110.0)),
        train_time_s=50.0,
        startup_time_s=7.0,
        evaluation_time_s=3.0,
        time_to_accuracy_s={"0.98": 20.0, "0.99": None},
        energy_j=7.2e6,
    )
    result = with_cost(timed, electricity=Electricity(0.25, 400.0), tokens_per_sample=50)
    # 3.60 USD an hour is 0.1 cent a second.
    assert result.cost_usd_per_epoch == pytest.approx(20 * 0.001)
    assert result.cost_usd_per_million_samples == pytest.approx(10_000 * 0.001)
    assert result.cost_usd_per_million_tokens == pytest.approx(200 * 0.001)
    assert result.cost_usd_total == pytest.approx(50 * 0.001)
    assert result.cost_usd_startup == pytest.approx(7 * 0.001)
    assert result.cost_usd_evaluation == pytest.approx(3 * 0.001)
    assert result.cost_usd_to_accuracy == {"0.98": pytest.approx(20 * 0.001), "0.99": None}
    assert result.electricity_usd == pytest.approx(2 * 0.25)  # 7.2 MJ are 2 kWh
    assert result.emissions_g == pytest.approx(2 * 400)
    assert result.missing == {}


MONEY = [field.name for field in dataclasses.fields(Arm) if field.name.startswith("cost_usd")]


def test_without_a_rate_the_reason_says_how_to_give_one():
    result = with_cost(arm(train_time_s=1.0, time_to_accuracy_s={"0.98": 1.0}), None)
    for name in MONEY:
        if name != "cost_usd_to_accuracy":
            assert getattr(result, name) is None and result.missing[name] == cost.NO_RATE
    assert result.cost_usd_to_accuracy == {"0.98": None}


def test_what_was_not_measured_costs_none_not_0():
    reasons = {
        "train_time_s": "not trained: why",
        "startup_time_s": "not built: why",
        "evaluation_time_s": "not evaluated: why",
        "energy_j": "no counter",
    }
    result = with_cost(arm(missing=reasons), electricity=Electricity(0.25, None))
    assert all(not getattr(result, name) for name in MONEY)
    assert result.missing["cost_usd_per_epoch"] == "the arm was not timed"
    assert result.missing["cost_usd_per_million_tokens"] == "the workload has no tokens"
    assert result.missing["cost_usd_total"] == "not trained: why"
    assert result.missing["cost_usd_startup"] == "not built: why"
    assert result.missing["cost_usd_evaluation"] == "not evaluated: why"
    assert result.missing["electricity_usd"] == "no counter"
    assert result.missing["emissions_g"] == "not asked for; pass --grid-g-per-kwh"


def test_electricity_is_what_was_given_or_refused():
    assert cost.check_electricity(None, None) is None
    assert cost.check_electricity(0.3, None) == Electricity(0.3, None)
    for bad in (-0.1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--electricity-usd-per-kwh"):
            cost.check_electricity(bad, None)
        with pytest.raises(InputError, match="--grid-g-per-kwh"):
            cost.check_electricity(None, bad)


def test_prices_are_dated_and_sourced():
    prices = cost.prices()
    assert {rate.kind for rate in prices.values()} == {"on-demand", "spot"}
    clouds = {rate.name.split()[0] for rate in prices.values()}
    assert clouds >= {"AWS", "Google", "Azure", "Lambda", "RunPod"}
    assert any("NVIDIA" in rate.name for rate in prices.values())
    for name, rate in prices.items():
        assert 0 < rate.rate_usd_per_h < 1_000
        assert rate.source.startswith("https://")
        assert re.fullmatch(r"20\d\d-(0[1-9]|1[0-2])", rate.as_of)
        assert rate.confirmation.startswith(("provider's page", "second hand"))
        assert name.endswith("-spot") == (rate.kind == "spot")


def test_a_file_of_prices_stands_above_the_list(tmp_path):
    own = tmp_path / "own.toml"
    entry = 'name = "ours"\nrate_usd_per_h = 0.5\nsource = "contract"\nas_of = "2026-01"\n'
    own.write_text(f'["c5.large"]\n{entry}["rack-7"]\n{entry}')
    assert cost.resolve_rate(None, "c5.large", own).rate_usd_per_h == 0.5
    assert cost.resolve_rate(None, "rack-7", own).source == "contract"
    assert cost.resolve_rate(None, "g5.xlarge", own) == cost.prices()["g5.xlarge"]


@pytest.mark.parametrize(
    "text",
    [
        "[[[",
        "x = 1\n",
        '[a]\nname = "n"\n',
        '[a]\nname = "n"\nrate_usd_per_h = 0\nsource = "s"\nas_of = "x"\n',
        '[a]\nname = "n"\nrate_usd_per_h = "1"\nsource = "s"\nas_of = "x"\n',
        '[a]\nname = "n"\nrate_usd_per_h = 1\nsource = "s"\nas_of = "x"\nmore = 1\n',
    ],
)
def test_a_file_that_is_none_is_said(tmp_path, text):
    own = tmp_path / "own.toml"
    own.write_text(text)
    with pytest.raises(DataError, match="is no file of prices"):
        cost.prices(own)
    with pytest.raises(DataError, match="cannot read"):
        cost.prices(tmp_path / "nowhere.toml")


def test_what_if_is_measured_throughput_at_another_price():
    report = full()
    rows = cost.what_if(report, [CostRate(3.6, "a", "", None), CostRate(7.2, "b", "", None)])
    assert [row.rate.name for row in rows] == ["a", "b"]
    for name, arm in report.arms.items():
        expected = 1e6 / arm.throughput_samples_per_s.estimate * 0.001
        assert rows[0].usd_per_million_samples[name] == pytest.approx(expected)
        assert rows[1].usd_per_million_samples[name] == pytest.approx(2 * expected)
    untimed = dataclasses.replace(report.arms["eager"], throughput_samples_per_s=None)
    left = cost.what_if(dataclasses.replace(report, arms={"eager": untimed}), [RATE])
    assert left[0].usd_per_million_samples == {}


def test_the_same_machine_is_listed_on_demand_and_spot():
    listed = cost.prices()
    both = [listed["c5.4xlarge"], listed["c5.4xlarge-spot"]]
    assert cost.same_machine(listed["c5.4xlarge"], listed) == both
    assert cost.same_machine(listed["c5.4xlarge-spot"], listed) == both
    assert cost.same_machine(RATE, listed) == [RATE]


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
