"""What each lever adds: from the plan to the record, the journal and the picture."""

import dataclasses
import itertools
import math

import pytest

import fastmodel as fm
from fastmodel.harness import journal, selection
from fastmodel.harness.records import Interval, LeverShare, Waterfall
from fastmodel.harness.report import pictures, render_html, waterfall
from fastmodel.harness.report.json_schema import ADAPTER
from fastmodel.optimize import Measurement
from fastmodel.optimize.plan import Contribution

from .sample_report import full

FOUND = Waterfall(
    10e-3,
    4e-3,
    Interval(2.5, (2.4, 2.6)),
    [
        LeverShare("optimizer", Interval(1.25, (1.2, 1.3))),
        LeverShare("site 0", Interval(2.0, (1.9, 2.1))),
        LeverShare("loss", Interval(0.95, (0.9, 1.0))),
    ],
)


@pytest.fixture
def report():
    return dataclasses.replace(full(), waterfall=FOUND)


def test_the_bars_lead_from_the_plain_step_to_the_whole(report):
    rows = waterfall.steps(report)
    names = [name for name, *_ in rows]
    assert names == ["plain step", "site 0", "optimizer", "loss", "together", "with all levers"]
    assert rows[0][1:] == (0.0, 10.0) and rows[-1][1:] == (0.0, 4.0)
    for (_, start, _), (_, _, end) in itertools.pairwise(rows[1:-1]):
        assert math.isclose(start, end)  # each bar goes on where the one before it ended
    assert math.isclose(rows[1][2] - rows[1][1], 4.0)  # twice as slow without it
    assert rows[3][1] > rows[3][2]  # a lever that costs goes up
    assert math.isclose(rows[4][1], 4.0)


def test_it_is_in_the_page_where_it_was_measured(report):
    page = render_html(report)
    assert "What each lever adds" in page and "waterfall-wide" in page
    assert "What each lever adds" not in render_html(full())
    drawn = pictures.pictures(report)["waterfall"]
    for index in range(6):
        assert f"lever-{index}" in drawn.wide and f"lever-{index}" in drawn.narrow
    again = ADAPTER.validate_json(ADAPTER.dump_json(report))
    assert again.waterfall == FOUND


def test_from_a_plan_to_the_report():
    whole = Measurement(10e-3, 4e-3, 2.5, 2.4, 2.6, 8)
    shares = (Contribution("loss", Measurement(5e-3, 4e-3, 1.25, 1.2, 1.3, 8)),)
    event = selection.explained(fm.Plan((), (), "measured", (), whole, "", shares))
    assert event.waterfall.plain_time_s == 10e-3
    assert event.waterfall.levers == [LeverShare("loss", Interval(1.25, (1.2, 1.3)))]
    assert journal.Explained in journal.Event.__args__  # what a journal can hold
    none = selection.explained(fm.Plan((), (), "measured", verdict="nothing won alone"))
    assert none == journal.Explained(None, "nothing won alone")
