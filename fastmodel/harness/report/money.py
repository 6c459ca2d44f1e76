"""Tables of money: what the run cost, and what a million samples cost at the same machine's other prices."""

from __future__ import annotations

from fastmodel.harness.cost import prices, same_machine, what_if
from fastmodel.harness.records import Arm, Report

from . import format as fmt
from .roles import ordered_arms, why
from .tables import Cell, Table, missing, text


def costs(report: Report) -> Table:
    """What each arm's work costs at the rate; start-up and validation stand apart."""
    shown = ordered_arms(report)

    def value(label: str, name: str) -> list[Cell]:
        return [text(label), *(_usd(arm, name) for arm in shown)]

    rows = [
        value("A million samples, at the timed throughput", "cost_usd_per_million_samples"),
        value("An epoch, at the timed throughput", "cost_usd_per_epoch"),
    ]
    if report.workload.tokens_per_sample is not None:
        rows.insert(1, value("A million tokens", "cost_usd_per_million_tokens"))
    targets = sorted({key for arm in shown for key in arm.cost_usd_to_accuracy})
    for key in targets:
        cells = (_to_target(arm, key) for arm in shown)
        rows.append([text(f"Training to {fmt.target(key)}"), *cells])
    rows += [
        value("The whole training run", "cost_usd_total"),
        value("Start-up, on top", "cost_usd_startup"),
        value("Validation, on top", "cost_usd_evaluation"),
    ]
    if report.electricity is not None:
        rows.append(value("Electricity of the training run", "electricity_usd"))
        rows.append([text("CO2 equivalent of the training run"), *map(_emissions, shown)])
    rate = report.cost_rate
    absent = "" if rate is not None else fmt.clean(why(report.missing, "cost_rate"))
    remarks = [
        "Money is seconds times the rate. What a rented machine costs contains its electricity already."
    ]
    return Table(
        "costs",
        "Cost",
        ["", *(fmt.clean(arm.name) for arm in shown)],
        rows if rate is not None or report.electricity is not None else [],
        numeric=frozenset(range(1, len(shown) + 1)),
        emphasis=1 if shown and shown[0].is_optimized else None,
        remarks=remarks,
        absent=absent,
    )


def _usd(arm: Arm, name: str) -> Cell:
    value = getattr(arm, name)
    return missing(why(arm.missing, name)) if value is None else Cell(fmt.usd(value))


def _to_target(arm: Arm, key: str) -> Cell:
    value = arm.cost_usd_to_accuracy.get(key)
    if value is not None:
        return Cell(fmt.usd(value))
    if not arm.epochs:
        return missing(why(arm.missing, "train_time_s"))
    if arm.time_to_accuracy_s.get(key) is not None:
        return missing(why(arm.missing, "cost_usd_total"))
    return missing(f"not reached in {len(arm.epochs)} epochs")


def _emissions(arm: Arm) -> Cell:
    value = arm.emissions_g
    if value is None:
        return missing(why(arm.missing, "emissions_g"))
    return Cell(f"{fmt.significant(value)} g")


def other_prices(report: Report) -> Table:
    """A million samples at every listed price of the machine whose rate was given."""
    shown = ordered_arms(report)
    rates = [] if report.cost_rate is None else same_machine(report.cost_rate, prices())
    rows = []
    for row in what_if(report, rates):
        found = (row.usd_per_million_samples.get(arm.name) for arm in shown)
        cells = [missing("not timed") if usd is None else Cell(fmt.usd(usd)) for usd in found]
        per_h = f"{row.rate.kind}, {fmt.usd(row.rate.rate_usd_per_h)} per hour"
        rows.append([Cell(fmt.clean(row.rate.name), fmt.clean(per_h)), *cells])
    return Table(
        "what-if",
        "What if: a million samples at other prices",
        ["Price", *(fmt.clean(arm.name) for arm in shown)],
        rows,
        numeric=frozenset(range(1, len(shown) + 1)),
        remarks=[
            "Timed throughput times the price, on the supposition that the priced machine is the measured"
            " one. How fast another machine is, this page does not know: run the bench there, and lay both"
            " runs side by side with fastmodel report."
        ],
        absent=fmt.clean(why(report.missing, "cost_rate")),
    )
