"""Every microsecond in exactly one class: the cutting, the priority, the sums."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmodel.harness.profile.classes import (
    CLASSES,
    PRIORITY,
    Span,
    classes,
    innermost,
    partition,
)


def totals(spans, window=(0, 100)):
    return partition(window, [Span(*span) for span in spans])


def test_the_first_of_the_priority_gets_the_moment():
    found = totals([(0, 60, "kernel"), (20, 40, "device kernel"), (30, 50, "data loader")])
    assert found == {"kernel": 30, "device kernel": 20, "data loader": 10, "": 40}


@pytest.mark.parametrize(("first", "second"), list(itertools.pairwise(PRIORITY)))
def test_the_priority_is_the_stated_one(first, second):
    assert totals([(0, 10, second), (0, 10, first)], (0, 10)) == {first: 10}


def test_what_lies_outside_the_window_does_not_count():
    assert totals([(-50, 10, "kernel"), (95, 300, "copy")]) == {"kernel": 10, "copy": 5, "": 85}


def test_of_nested_operators_the_innermost_has_the_time():
    cut = innermost([Span(0, 10, "a"), Span(2, 6, "b"), Span(3, 4, "c"), Span(6, 7, "d")])
    assert [(s.start, s.end, s.label) for s in cut] == [
        (0, 2, "a"),
        (2, 3, "b"),
        (3, 4, "c"),
        (4, 6, "b"),
        (6, 7, "d"),
        (7, 10, "a"),
    ]


def test_of_two_that_begin_together_the_shorter_is_the_inner():
    cut = innermost([Span(0, 3, "inner"), Span(0, 9, "outer")])
    assert [(s.start, s.end, s.label) for s in cut] == [(0, 3, "inner"), (3, 9, "outer")]


spans = st.lists(
    st.tuples(st.integers(-20, 120), st.integers(0, 60), st.sampled_from(PRIORITY)), max_size=12
)


@given(spans)
def test_the_labels_add_up_to_the_window(drawn):
    found = totals([(start, start + length, label) for start, length, label in drawn])
    assert sum(found.values()) == 100
    assert all(time >= 0 for time in found.values())


@given(spans)
def test_cutting_covers_what_was_covered_once_and_no_more(drawn):
    given_ = [Span(start, start + length, label) for start, length, label in drawn if length]
    cut = innermost(given_)
    for before, after in itertools.pairwise(cut):
        assert before.end <= after.start
    covered = {t for span in given_ for t in range(span.start, span.end)}
    assert {t for span in cut for t in range(int(span.start), int(span.end))} == covered


@given(spans, st.floats(-10, 200), st.booleans())
def test_the_classes_add_up_too(drawn, asleep, has_device):
    found = classes(totals([(s, s + n, label) for s, n, label in drawn]), asleep, has_device)
    assert tuple(found) == CLASSES
    assert sum(found.values()) == pytest.approx(100)
    assert all(time >= 0 for time in found.values())


def test_sleep_is_idle_only_where_nothing_else_went_on():
    found = classes({"kernel": 60.0, "": 40.0}, asleep=50.0, has_device=False)
    assert (found["kernel"], found["idle"], found["Python/CPU"]) == (60, 40, 0)
    found = classes({"kernel": 60.0, "": 40.0}, asleep=15.0, has_device=False)
    assert (found["idle"], found["Python/CPU"]) == (15, 25)


def test_with_a_device_the_hosts_operators_are_pythons():
    totals_ = {"device kernel": 50.0, "kernel": 20.0, "driver": 10.0, "runtime": 5.0, "": 15.0}
    found = classes(totals_, asleep=0.0, has_device=True)
    assert found["kernel"] == 50 and found["runtime"] == 10 and found["Python/CPU"] == 40
