"""The profile's page and tables, drawn from a record of our own making."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest
import rich.console

from fastmodel.harness.environment import environment
from fastmodel.harness.profile_job import dump_profile, load_profile
from fastmodel.harness.profile_records import (
    Advice,
    Estimate,
    Phases,
    ProfileReport,
    StepTime,
    SyncPoint,
)
from fastmodel.harness.profile_tables import profile_tables
from fastmodel.harness.records import StepPart
from fastmodel.harness.report import roofline_chart, telemetry_chart
from fastmodel.harness.report.profile_page import render_profile
from fastmodel.harness.roofline_records import Ceilings, OperatorRow
from fastmodel.harness.telemetry_records import Series, Telemetry

HOSTILE = "<script>alert(1)</script>"
CONV = OperatorRow(
    "aten::convolution", "conv forward", 2, 2e-3, 0.2, 4e9, 1e7, 2000.0, 5.0, 400.0, 0.8
)
POOL = OperatorRow(
    "aten::max_pool2d", "pool forward", 1, 3e-3, 0.3, None, 2e7, None, 6.7, None, 0.3,
    {"flops": "no formula is known for this operator"},
)  # fmt: skip
REPORT = ProfileReport(
    schema_version=1,
    complete=True,
    incomplete_reason=None,
    started_at="2026-01-01T00:00:00+00:00",
    duration_s=3.0,
    command=["fastmodel", "profile", f"{HOSTILE}.py"],
    exit_code=0,
    environment=environment(),
    device="cpu",
    phases=Phases(6, 20, 1, 2, 10, 0),
    steps_seen=39,
    step_boundary="Adam.step",
    step_time=StepTime(0.01, 0.009, 0.012, 20, 0.0),
    profiled_step_s=0.011,
    classes=[StepPart("kernel", 0.009, 0.9), StepPart("Python/CPU", 0.001, 0.1)],
    kinds=[StepPart(f"kind {n}", 0.001, 0.1) for n in range(10)],
    operators=[POOL, CONV],
    ceilings=Ceilings("cpu", "float32", 2500.0, 2000.0, 20.0),
    sync_points=[SyncPoint("train.py:3", "aten::item", f"f({HOSTILE})", 1, 2e-6)],
    advice=[
        Advice("a", "First thing", "do it", "t", ["conv1"], 0.004, 0.4, 1.67, "40 % by 2", "here")
    ],
    estimate=Estimate(["a"], 0.006, 1.67),
    telemetry=Telemetry(
        "replay",
        0.1,
        0.2,
        [0.0, 0.1, 0.2],
        [
            Series("process_cpu_cores", "replay", False, [1.0, None, 2.0], 1.5, 2.0, None),
            Series("gpu_energy_j", "replay", True, [5.0, 6.0, 9.0], 20.0, None, 4.0),
        ],
        window={"sm_activity_percent": 71.5},
        facts={"gpu_busy_percent": "share of the time"},
        missing={"gpu_power_w": "NVML: Not Supported"},
    ),
)


@pytest.fixture(scope="module")
def page():
    return render_profile(REPORT)


def pictures(page):
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]


def ids(picture):
    return {e.attrib["id"].split("-", 2)[-1] for e in picture.iter() if "id" in e.attrib}


def test_the_page_is_offline_and_what_comes_from_a_script_is_escaped(page):
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert "default-src 'none'" in page and "<script" not in page
    assert not re.search(r"(src|href)=\"https?://", page)
    assert "A step takes 10.0 ms: kind 0 10%, kind 1 10%. First advice: First thing" in re.sub(
        "\u00a0", " ", page
    )


def test_every_value_has_its_mark(page):
    drawn = pictures(page)
    assert len(drawn) == 6  # three pictures, each wide and narrow
    assert {"bar-0-0", "bar-0-1", "bar-1-8"} <= ids(drawn[0])
    assert {"roof", "operator-0"} <= ids(drawn[2]) and "operator-1" not in ids(drawn[2])
    assert "series-0" in ids(drawn[4])


def test_the_json_on_the_page_is_the_record(page, tmp_path):
    data = re.search(r"base64,([^\"]+)\"", page)[1]
    path = tmp_path / "profile.json"
    path.write_bytes(base64.b64decode(data))
    assert load_profile(path) == REPORT
    path.write_text(dump_profile(REPORT))
    assert load_profile(tmp_path) == REPORT
    assert json.loads(path.read_text())["telemetry"]["source"] == "replay"


def test_only_operators_with_a_rate_are_in_the_roofline():
    assert roofline_chart.shown(REPORT.operators) == [CONV]
    assert roofline_chart.draw([POOL], REPORT.ceilings, 500) is None
    assert roofline_chart.draw(REPORT.operators, None, 500) is None


def test_series_without_anything_to_see_have_no_picture():
    flat = Series("gpu_power_w", "replay", False, [0.0, 0.0], 0.0, 0.0, None)
    alone = Series("gpu_power_w", "replay", False, [1.0], 1.0, 1.0, None)
    for series in ([flat], [alone], []):
        telemetry = dataclasses.replace(REPORT.telemetry, series=series)
        assert telemetry_chart.draw(telemetry, 500) is None
    assert telemetry_chart.label(flat) == "gpu power, W"


def test_a_partial_report_says_so_and_why():
    partial = dataclasses.replace(
        REPORT,
        complete=False,
        incomplete_reason="the script raised ValueError: planted",
        step_time=None,
        profiled_step_s=None,
        classes=[],
        kinds=[],
        operators=[],
        advice=[],
        estimate=None,
        sync_points=[],
        telemetry=None,
        ceilings=None,
        missing={"advice": "the script raised ValueError: planted"},
    )
    page = render_profile(partial)
    assert page.count("the script raised ValueError: planted") >= 3
    assert "39 training steps were seen." in page and "<svg" not in page
    text = tables(partial)
    assert "INCOMPLETE: the script raised ValueError: planted" in text


def tables(report):
    console = rich.console.Console(width=120, file=io.StringIO())
    console.print(*profile_tables(report), sep="\n")
    return console.file.getvalue()


def test_the_tables_have_the_figures():
    text = tables(REPORT)
    assert "step: 10.00 ms (90 % between 9.00 and 12.00)" in text
    for words in ("4.00 ms", "40.0%", "First thing", "(conv1)", "40 % by 2; here", "80%", "71.5"):
        assert words in text
    assert "source replay" in text and "gpu_power_w: NVML: Not Supported" in text
    assert f"f({HOSTILE})" in text.replace("\n", "")
