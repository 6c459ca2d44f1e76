"""A real trace as Perfetto takes it: complete events that nest on every thread, below the size asked for."""

from __future__ import annotations

import json
import math
from itertools import groupby

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.harness.profile import Schedule
from fastmodel.harness.profile.session import Session

STEPS = 5


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The events of a loop with two threads of work, an optimizer and ranges of the user's own."""
    path = tmp_path_factory.mktemp("trace") / "trace.json"
    train(path, Schedule(wait=0, timed=1, look=0, warmup=1, active=STEPS, control=0))
    return json.loads(path.read_text())


def train(path, schedule):
    session = Session(schedule, trace_file=path, period_s=None, has_trials=False)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    optimizer = fm.optim.Adam(model.parameters())
    session.start()
    while session._phases.current:
        optimizer.zero_grad()
        with torch.profiler.record_function("mine"):
            model(torch.randn(4, 8)).sum().backward()
        optimizer.step()
    report = session.finish()
    session.close()
    return report


def complete(trace):
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def test_every_event_is_one_of_the_formats(trace):
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and isinstance(event["ph"], str)
        if event["ph"] == "M":
            assert event["args"]  # a name or a place in the order
            continue
        assert "pid" in event and "tid" in event and math.isfinite(event["ts"])
        if event["ph"] == "X":
            assert math.isfinite(event["dur"]) and event["dur"] >= 0
    # An arrow from the forward operator to its node of backward has both its ends.
    ends = {"s": [], "f": []}
    for event in trace["traceEvents"]:
        if event["ph"] in ends:
            ends[event["ph"]].append((event["cat"], event["id"]))
    assert ends["s"] and sorted(ends["s"]) == sorted(ends["f"])


def test_the_events_of_a_thread_nest(trace):
    """Two that overlap in part are what Perfetto drops."""
    tracks = sorted(complete(trace), key=lambda e: (str(e["pid"]), str(e["tid"])))
    for _, track in groupby(tracks, key=lambda e: (str(e["pid"]), str(e["tid"]))):
        open_until: list[float] = []
        for event in sorted(track, key=lambda e: (e["ts"], -e["dur"])):
            while open_until and open_until[-1] <= event["ts"]:
                open_until.pop()
            end = event["ts"] + event["dur"]
            # Times are written to the nanosecond: an end may be off by one of them.
            assert not open_until or end <= open_until[-1] + 2e-3, event
            open_until.append(end)


def test_the_steps_are_there_and_what_ran_in_them(trace):
    names = [event["name"] for event in complete(trace)]
    assert sum(name.startswith("ProfilerStep#") for name in names) == STEPS
    assert names.count("mine") == STEPS
    assert names.count("aten::addmm") == 2 * STEPS
    (steps,) = {e["tid"] for e in complete(trace) if e["name"].startswith("ProfilerStep#")}
    (named,) = [e for e in trace["traceEvents"] if e["name"] == "thread_name" and e["tid"] == steps]
    assert named["args"] == {"name": "steps"}


def test_a_bound_on_the_size_is_kept_and_said(tmp_path):
    path = tmp_path / "trace.json"
    whole = Schedule(wait=0, timed=0, look=0, warmup=1, active=8, control=0)
    train(path, whole)
    limit = path.stat().st_size * 3 // 4
    cut = Schedule(wait=0, timed=0, look=0, warmup=1, active=8, control=0, trace_limit_bytes=limit)
    report = train(path, cut)
    assert path.stat().st_size <= limit and report.trace_bytes == path.stat().st_size
    kept = sum(
        e["name"].startswith("ProfilerStep#") for e in complete(json.loads(path.read_text()))
    )
    assert 1 <= kept < 8
    assert (
        f"the trace holds the first {kept} of 8 steps, to stay below {limit} bytes" in report.notes
    )
