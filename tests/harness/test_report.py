"""The rendered report: values are there, missing ones say why, and no text escapes its markup."""

from __future__ import annotations

import base64
import html as html_text
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import jsonschema
import matplotlib
import pytest

from fastmodel.harness import cost
from fastmodel.harness.records import Electricity, Report
from fastmodel.harness.report import (
    comparison,
    money,
    render_html,
    render_markdown,
    schema,
    schema_text,
)
from fastmodel.harness.report import format as fmt
from fastmodel.harness.report.comparison import Run
from fastmodel.harness.report.json_schema import ADAPTER
from fastmodel.harness.report.markdown import escape
from fastmodel.harness.report.roles import ordered_arms

from . import sample_report

ROOT = Path(__file__).parents[2]
VARIANTS = list(sample_report.VARIANTS)
VOID = {"meta", "wbr", "br", "hr", "img", "input", "link"}
SVG_TAGS = {"svg", "g", "path", "defs", "use", "text", "style", "clipPath", "rect"}
PAGE_TAGS = {"html", "head", "meta", "title", "style", "body", "header", "main", "section", "div"}
PAGE_TAGS |= {"p", "h1", "h2", "h3", "dl", "dt", "dd", "ol", "li", "figure", "figcaption", "pre"}
PAGE_TAGS |= {"table", "thead", "tbody", "tr", "th", "td", "sup", "small", "details", "summary"}
PAGE_TAGS |= {"a", "code", "span", "i", "wbr"}


@cache
def report(variant: str) -> Report:
    return sample_report.VARIANTS[variant]()


@cache
def page(variant: str) -> str:
    return render_html(report(variant))


@cache
def markdown(variant: str) -> str:
    return render_markdown(report(variant))


def plain(text: str) -> str:
    return " ".join(text.replace("\u2060", "").split())


class Page(HTMLParser):
    """Tags, attributes and tables of a page, as a browser's parser sees them."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == [], f"unclosed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        if tag == "table":
            self.rows = self.tables.setdefault(values["class"] or "", [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.texts.setdefault(tag, []).append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        for tag in self.open:
            self.texts[tag][-1] += data


@cache
def parsed(variant: str) -> Page:
    return Page(page(variant))


@cache
def svgs(variant: str) -> dict[str, ET.Element]:
    """Name ("pairs-wide") to the parsed element of every picture on the page."""
    found = re.findall(r"<svg .*?</svg>", page(variant), re.DOTALL)
    elements = [ET.fromstring(text) for text in found]
    return {by_id(e, ".*-figure_1")[0].attrib["id"].removesuffix("-figure_1"): e for e in elements}


def by_id(element: ET.Element, pattern: str) -> list[ET.Element]:
    return [e for e in element.iter() if re.fullmatch(pattern, e.attrib.get("id", ""))]


def uses(element: ET.Element) -> list[tuple[float, float]]:
    """Positions of the markers drawn inside `element`."""
    return [
        (float(e.attrib["x"]), float(e.attrib["y"]))
        for e in element.iter()
        if e.tag.endswith("}use")
    ]


def extent(element: ET.Element) -> tuple[float, float]:
    """Left and right end of the path inside `element`."""
    xs = [x for x, _ in points(element)]
    return min(xs), max(xs)


def vertical_extent(element: ET.Element) -> tuple[float, float]:
    """Lower and upper end of the path inside `element`, the lower one having the larger y."""
    ys = [y for _, y in points(element)]
    return max(ys), min(ys)


def points(element: ET.Element) -> list[tuple[float, float]]:
    (path,) = [e for e in element.iter() if e.tag.endswith("}path")]
    found = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])
    return [(float(x), float(y)) for x, y in found]


def markdown_tables(text: str) -> Iterator[list[list[str]]]:
    for block in text.split("\n\n"):
        if block.startswith("|"):
            lines = [line.strip("|").split(" | ") for line in block.splitlines()]
            yield [[cell.strip(" |") for cell in line] for line in lines[:1] + lines[2:]]


def arms_tables(variant: str) -> dict[str, dict[str, dict[str, str]]]:
    """The arms table of both renderings: format, then row, then arm, then text."""
    tables = {
        "html": [[plain(cell) for cell in row] for row in parsed(variant).tables["arms"]],
        "markdown": next(
            table for table in markdown_tables(markdown(variant)) if "Test loss" in str(table)
        ),
    }
    return {
        kind: {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}
        for kind, rows in tables.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryVariant:
    def test_page_is_small_and_well_nested(self, variant: str) -> None:
        assert len(page(variant).encode()) < 2_000_000
        assert page(variant).startswith("<!doctype html>")
        assert parsed(variant).texts["h1"][0].strip()

    def test_is_deterministic(self, variant: str) -> None:
        assert render_html(report(variant)) == page(variant)
        assert render_markdown(report(variant)) == markdown(variant)

    def test_loads_nothing(self, variant: str) -> None:
        for tag, attributes in parsed(variant).tags:
            assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base"}
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                assert name not in {"src", "srcset", "action", "poster", "background"}, (tag, name)
                if name == "href" and tag == "a":
                    assert (value or "").startswith(
                        ("https://", "http://", "data:application/json")
                    )
                elif name == "href":
                    assert (value or "").startswith("#")
                elif name != "title" and name != "aria-label" and name != "xmlns":
                    assert "http" not in (value or "") or name == "http-equiv", (tag, name, value)
        for style in parsed(variant).texts["style"]:
            assert "@import" not in style and "url(" not in style and "http" not in style
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in parsed(
            variant
        ).tags

    def test_has_only_our_tags(self, variant: str) -> None:
        known = PAGE_TAGS | {tag.lower() for tag in SVG_TAGS}
        assert {tag for tag, _ in parsed(variant).tags} <= known

    def test_pictures_are_themed_xml_with_unique_ids(self, variant: str) -> None:
        variables = set(re.findall(r"(--[\w-]+):", parsed(variant).texts["style"][0]))
        for element in svgs(variant).values():
            assert element.attrib["role"] == "img"
            assert element.attrib["aria-label"]
            assert "width" not in element.attrib and "viewBox" in element.attrib
            own = {e.attrib["id"] for e in element.iter() if "id" in e.attrib}
            for e in element.iter():
                assert e.tag.split("}")[1] in SVG_TAGS
                for value in e.attrib.values():
                    assert not re.search(r"#[0-9a-fA-F]{3,8}\b", value), value
                    assert set(re.findall(r"var\((--[\w-]+)\)", value)) <= variables
                links = e.attrib.get("href", "") + e.attrib.get("clip-path", "")
                assert set(re.findall(r"#([\w-]+)", links)) <= own
        ids = re.findall(r'\bid="([^"]+)"', page(variant))
        assert len(ids) == len(set(ids))

    def test_embedded_json_is_the_report(self, variant: str) -> None:
        (link,) = [a["href"] for _, a in parsed(variant).tags if "download" in a]
        decoded = base64.b64decode((link or "").partition("base64,")[2])
        assert decoded == ADAPTER.dump_json(report(variant))
        (shown,) = parsed(variant).texts["pre"]
        assert json.loads(shown) == json.loads(decoded)
        assert ADAPTER.validate_json(decoded) == report(variant)

    def test_markdown_tables_keep_their_columns(self, variant: str) -> None:
        for block in markdown(variant).split("\n\n"):
            if block.startswith("|"):
                borders = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
                assert len(borders) == 1, block

    def test_says_whether_it_is_complete(self, variant: str) -> None:
        for text in (plain(html_text.unescape(page(variant))), plain(markdown(variant))):
            assert ("This run is incomplete (" in text) != report(variant).complete

    def test_same_sentence_in_both(self, variant: str) -> None:
        sentence = plain(parsed(variant).texts["h1"][0])
        bold = re.findall(r"^\*\*(.*)\*\*$", markdown(variant), re.MULTILINE)[-1]
        assert plain(html_text.unescape(re.sub(r"\\(.)", r"\1", bold))) == sentence

    def test_no_missing_value_is_zero(self, variant: str) -> None:
        rows_of = {
            "Throughput, samples/s": "throughput_samples_per_s",
            "Test accuracy": "test_accuracy",
            "Test loss": "test_loss",
            "Training time": "train_time_s",
            "Peak memory": "peak_memory_bytes",
            "Energy": "energy_j",
            "Start-up": "startup_time_s",
            "Validation": "evaluation_time_s",
        }
        arms = ordered_arms(report(variant))
        for kind, table in arms_tables(variant).items():
            for row, field in rows_of.items():
                for arm, text in zip(arms, table[row].values(), strict=True):
                    is_missing = getattr(arm, field) is None
                    assert text.startswith("n/a") == is_missing, (kind, row, arm.name)
                    if is_missing:
                        reason = fmt.clean(arm.missing.get(field, "no reason was recorded"))
                        number = re.sub(r"\D", "", text)
                        if kind == "markdown":
                            assert f"- [{number}] {escape(reason)}\n" in markdown(variant)
                        else:
                            notes = parsed(variant).texts["ol"][0].strip().split("\n")
                            assert plain(notes[int(number) - 1]) == reason


def test_arms_table_holds_the_record() -> None:
    fast, base = report("full").arms["fastmodel"], report("full").arms["eager-fused"]
    for kind, table in arms_tables("full").items():
        assert list(table["Test loss"]) == ["fastmodel", "eager-fused", "channels-last", "eager"]
        for arm in (fast, base):
            rate = arm.throughput_samples_per_s
            assert rate is not None and arm.test_accuracy is not None
            assert arm.cost_usd_per_epoch is not None and arm.peak_memory_bytes is not None
            low, high = rate.ci95
            cells = {row: texts[arm.name] for row, texts in table.items()}
            shown = re.sub(r"[()]", "", cells["Throughput, samples/s"])
            assert shown == f"{rate.estimate:,.0f} {low:,.0f}\u2013{high:,.0f}", kind
            assert cells["Epochs trained"] == str(len(arm.epochs))
            accuracy = arm.epochs[-1].validation_accuracy
            assert cells["Validation accuracy"] == f"{accuracy * 100:.2f} %"
            assert cells["Test accuracy"] == f"{arm.test_accuracy * 100:.2f} %"
            assert cells["Test loss"] == f"{arm.test_loss:.4f}"
            assert cells["Peak memory"] == f"{arm.peak_memory_bytes / 2**20:.0f} MiB"
            assert cells["Start-up"] == "120 ms"
        assert table["Training time to 98 %"]["fastmodel"] == "3.91 s"
        assert table["Training time to 98 %"]["eager-fused"] == "12.5 s"
        assert re.sub(r"[()]", "", table["Ratio to best PyTorch arm"]["fastmodel"]) == (
            "3.21\u00d7 3.15\u20133.28"
        )
        assert table["Ratio to best PyTorch arm"]["eager-fused"] == "1 (reference)"
        assert table["Ratio to best PyTorch arm"]["eager"] == "0.84\u00d7"  # not "1 (reference)"
        energy = re.sub(r"[()]", "", table["Energy"]["eager"])
        assert energy == "152 J 0.0000422 kWh, RAPL package-0"
    for text in (plain(" ".join(parsed("full").texts["ol"])), markdown("full")):
        assert "not reached in 2 epochs" in text
        assert sample_report.NO_POWER_COUNTER in text


def test_nothing_is_a_reference_before_it_was_timed() -> None:
    for table in arms_tables("incomplete_after_gate").values():
        assert all(text.startswith("n/a") for text in table["Ratio to best PyTorch arm"].values())


@pytest.mark.parametrize("variant", ["full", "gate_failed", "missing_values"])
def test_other_tables_hold_the_record(variant: str) -> None:
    made = report(variant)
    rendered = [
        {
            name: [[plain(c) for c in row] for row in rows]
            for name, rows in parsed(variant).tables.items()
        },
        {row[0]: row for table in markdown_tables(markdown(variant)) for row in table},
    ]
    if made.gate is not None:
        for index, check in enumerate(made.gate.checks, start=1):
            error = "n/a" if check.error is None else f"{check.error:.1e}"
            result = "passed" if check.passed else "FAILED"
            expected = [check.name, result, error]
            expected += [f"{check.baseline_error:.1e}", f"{check.bound:.1e}"]
            assert [re.sub("n/a1$", "n/a", c) for c in rendered[0]["gate"][index]] == expected
            assert [c.removesuffix(" [1]") for c in rendered[1][check.name]] == expected
    for index, swap in enumerate(made.swaps, start=1):
        expected = [swap.site, swap.pattern, swap.replacement or "left as it was", swap.reason]
        assert rendered[0]["swaps"][index] == expected
        assert rendered[1][swap.site] == expected
    flat = [
        {row[0]: row[1] for name in ("environment", "method") for row in rendered[0][name]},
        {name: row[1] for name, row in rendered[1].items()},
    ]
    for cells in flat:
        assert cells["PyTorch"] == made.environment.torch_version
        assert cells["Threads used"] == str(made.environment.threads)
        assert cells["Parameters"] == f"{made.workload.parameters:,}"
        assert cells["Pairs"] == str(made.method.pairs)
        assert cells["Command"] == " ".join(made.command)
        assert cells["Backend cuda"] == made.environment.backends["cuda"]
        assert cells["Commit"].startswith(made.environment.commit or "n/a")
        if made.cost_rate is None:
            assert cells["Rate"].startswith("n/a")
        else:
            assert f"${made.cost_rate.rate_usd_per_h:.3f}" in cells["Rate"]
            assert made.cost_rate.kind in cells["Rate"]
            source = re.sub(r"[()]", "", cells["Source of the rate"])
            assert source == f"{made.cost_rate.source} {made.cost_rate.confirmation}"


def test_untrained_arm_says_why_it_was_not_trained() -> None:
    for table in arms_tables("interrupted").values():
        for row in ("Epochs trained", "Validation accuracy", "Training time to 98 %"):
            assert table[row]["fastmodel"].removeprefix("n/a").strip(" []") == "2", row
    assert "- [2] the run ended before this arm was trained\n" in markdown("interrupted")
    assert "No picture: the run ended before this arm was trained." in page("interrupted")


def test_window_length_that_was_never_chosen_is_missing() -> None:
    rows = {
        plain(row[0]): plain(row[1]) for row in parsed("incomplete_after_gate").tables["method"]
    }
    assert rows["Steps per window"] == "n/a1"
    assert "no window was timed" in page("incomplete_after_gate")


def test_epochs_and_pairs_hold_the_record() -> None:
    made = report("long_run")
    assert made.speedup is not None
    tables = parsed("long_run").tables
    assert [plain(row[1]) for row in tables["pairs"][1:]] == [
        f"{ratio:.2f}\u00d7" for ratio in made.speedup.ratios
    ]
    expected = [
        [name, str(e.epoch), f"{e.train_loss:.4f}", f"{e.validation_loss:.4f}"]
        for name in ("fastmodel", "eager-fused")
        for e in made.arms[name].epochs
    ]
    assert [[row[i] for i in (0, 1, 3, 4)] for row in tables["epochs"][1:]] == expected


SENTENCES = {
    "full": (
        "fastmodel trained mnist-cnn 3.21\u00d7 as fast as PyTorch's best arm (eager-fused;"
        " 95 % interval 3.15\u20133.28), at the same test accuracy (98.92 % against 98.84 %)."
    ),
    "loss": (
        "fastmodel trained mnist-cnn slower than PyTorch's best arm: 0.87\u00d7 the"
        " throughput of eager-fused (95 % interval 0.85\u20130.89), at lower test accuracy"
        " (97.13 % against 98.84 %)."
    ),
    "tie": (
        "fastmodel was neither faster nor slower than PyTorch's best arm (eager-fused)"
        " on mnist-cnn, as far as this run can tell: the ratio of 1.009\u00d7 has a 95 %"
        " interval 0.971\u20131.049, which contains 1, at the same test accuracy (98.92 %"
        " against 98.84 %)."
    ),
    "within_noise": (
        "fastmodel trained mnist-cnn 1.021\u00d7 as fast as PyTorch's best arm (eager-fused;"
        " 95 % interval 1.004\u20131.039), a difference no larger than the noise of this"
        " machine (baseline against itself: 0.970\u20131.031), at the same test accuracy"
        " (98.92 % against 98.84 %)."
    ),
    "incomplete_after_gate": (
        "The numbers of both arms agreed, but no speed was compared on mnist-cnn"
        " (interrupted before this was measured)."
    ),
    "interrupted": "The run ended before speed was compared on mnist-cnn.",
    "gate_failed": (
        "fastmodel's numbers were wrong on mnist-cnn: 2 of 10 checks were out of"
        " bounds, so no speed is claimed."
    ),
    "single_arm": (
        "The numbers of both arms agreed, but no speed was compared on mnist-cnn (only"
        " one arm was run)."
    ),
    "missing_values": (
        "fastmodel trained mnist-cnn 3.21\u00d7 as fast as PyTorch's best arm (eager-fused;"
        " 95 % interval 3.15\u20133.28); their test accuracies cannot be compared (reason for"
        " test_accuracy)."
    ),
}


@pytest.mark.parametrize("variant", SENTENCES)
def test_sentence(variant: str) -> None:
    assert plain(parsed(variant).texts["h1"][0]) == SENTENCES[variant]


def test_same_accuracy_depends_on_the_size_of_the_test_set() -> None:
    full = report("full")
    large = replace(full, workload=replace(full.workload, test_samples=1_000_000))
    assert "at higher test accuracy (98.92 % against 98.84 %)" in render_markdown(large)


@pytest.mark.parametrize("width", ["wide", "narrow"])
@pytest.mark.parametrize("variant", ["full", "loss", "tie", "long_run"])
def test_pairs_picture_has_a_dot_a_pair_at_its_ratio(variant: str, width: str) -> None:
    speedup = report(variant).speedup
    assert speedup is not None
    chart = svgs(variant)[f"pairs-{width}"]
    dots = []
    for index in range(speedup.pairs):
        (mark,) = by_id(chart, rf"pairs-{width}-pair-{index}")
        dots += uses(mark)
    assert len(dots) == speedup.pairs == len(by_id(chart, r".*-pair-\d+"))
    assert [x for x, _ in dots] == sorted({x for x, _ in dots})
    # The interval's band gives the scale; SVG's y grows downwards.
    (band,) = by_id(chart, rf"pairs-{width}-interval")
    bottom, top = vertical_extent(band)
    low, high = speedup.ci95
    for ratio, (_, y) in zip(speedup.ratios, dots, strict=True):
        assert y == pytest.approx(bottom + (ratio - low) / (high - low) * (top - bottom), abs=0.01)
    for part in ("interval", "noise-floor", "estimate", "one"):
        assert len(by_id(chart, rf"pairs-{width}-{part}")) == 1, part


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_throughput_picture_has_a_bar_an_arm_in_proportion(width: str) -> None:
    arms = report("full").arms
    chart = svgs("full")[f"throughput-{width}"]
    names = ["fastmodel", "eager-fused", "channels-last", "eager"]
    assert len(by_id(chart, r".*-arm-\d+")) == len(names) == len(by_id(chart, r".*-interval-\d+"))
    scales = []
    for index, name in enumerate(names):
        rate = arms[name].throughput_samples_per_s
        assert rate is not None
        left, right = extent(by_id(chart, rf".*-arm-{index}")[0])
        assert 0 <= left < 5, "bars start at the left edge, which is zero"
        scales.append((right - left) / rate.estimate)
        ends = [x for x, _ in uses(by_id(chart, rf".*-interval-{index}")[0])]
        assert ends == pytest.approx([left + scales[0] * end for end in rate.ci95], abs=0.01)
    assert scales == pytest.approx([scales[0]] * len(names), rel=1e-4)
    texts = ["".join(e.itertext()) for e in chart.iter() if e.tag.endswith("}text")]
    assert texts == [text for name in names for text in (name, _rate(arms[name]))]


def _rate(arm: sample_report.Arm) -> str:
    assert arm.throughput_samples_per_s is not None
    return f"{arm.throughput_samples_per_s.estimate:,.0f}"


FIELDS = {
    "loss-wide": {"training": "train_loss", "validation": "validation_loss"},
    "accuracy-narrow": {"validation": "validation_accuracy"},
}


@pytest.mark.parametrize("chart", FIELDS)
@pytest.mark.parametrize("variant", ["full", "single_arm", "long_run"])
def test_curves_have_a_marker_an_epoch_at_its_value(variant: str, chart: str) -> None:
    trained = [arm for arm in report(variant).arms.values() if arm.epochs]
    drawn = []
    for name, field in FIELDS[chart].items():
        for index, arm in enumerate(trained):
            (line,) = by_id(svgs(variant)[chart], rf"{chart}-{name}-{index}")
            values = [(e.elapsed_train_time_s, getattr(e, field)) for e in arm.epochs]
            drawn += list(zip(values, uses(line), strict=True))
    # One linear map takes every time to its x, and another every value to its y.
    for axis, is_rightwards in ((0, True), (1, False)):  # SVG's y grows downwards
        pairs = sorted((value[axis], position[axis]) for value, position in drawn)
        (low, start), (high, end) = pairs[0], pairs[-1]
        assert abs(end - start) > 100 and (end > start) == is_rightwards
        for value, position in pairs:
            expected = start + (value - low) / (high - low) * (end - start)
            assert position == pytest.approx(expected, abs=0.01)


def test_curves_leave_out_what_is_not_finite() -> None:
    (line,) = by_id(svgs("diverged")["loss-wide"], "loss-wide-training-0")
    assert len(uses(line)) == 1
    rows = [[plain(cell) for cell in row] for row in parsed("diverged").tables["epochs"]]
    assert [row[3:5] for row in rows[2:5]] == [["n/a1", "n/a1"]] * 3
    assert "- [1] not finite\n" in markdown("diverged")


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_step_picture_stacks_every_part(width: str) -> None:
    chart = svgs("full")[f"steps-{width}"]
    scales = []
    for index, name in enumerate(("fastmodel", "eager-fused")):
        parts = report("full").arms[name].step_parts
        drawn = by_id(chart, rf"steps-{width}-part-{index}-\d+")
        assert len(drawn) == len(parts)
        ends = [extent(part) for part in drawn]
        assert 0 <= ends[0][0] < 5, "bars start at the left edge, which is zero"
        for (_, right), (left, _) in pairwise(ends):
            assert left == pytest.approx(right, abs=0.01)
        lengths = sorted(right - left for left, right in ends)
        times = sorted(part.time_s for part in parts)
        scales += [length / time for length, time in zip(lengths, times, strict=True)]
    assert scales == pytest.approx([scales[0]] * len(scales), rel=0.01)
    swatches = [a["class"] for tag, a in parsed("full").tags if tag == "i"]
    assert len(swatches) == len(parsed("full").tables["steps"]) - 2  # head and sum


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_rooflines_have_every_operator_at_its_place(width: str) -> None:
    drawn = []
    for index, name in enumerate(("fastmodel", "eager-fused")):
        chart = svgs("full")[f"roofline-{index}-{width}"]
        rows = [row for row in report("full").arms[name].operators if row.flops]
        for number, row in enumerate(rows):
            (dot,) = by_id(chart, rf"roofline-{index}-{width}-operator-{number}")
            place = uses(dot)[0]
            drawn.append(((math.log(row.flop_per_byte), math.log(row.gflop_per_s)), place))
        assert len(by_id(chart, r".*-operator-\d+")) == len(rows)
        assert by_id(chart, rf"roofline-{index}-{width}-roof")
    assert len(drawn) == 6
    # The arms have the same scales: one linear map of logarithms for each axis serves both.
    for axis, is_rightwards in ((0, True), (1, False)):  # SVG's y grows downwards
        pairs = sorted((value[axis], position[axis]) for value, position in drawn)
        (low, start), (high, end) = pairs[0], pairs[-1]
        assert abs(end - start) > 20 and (end > start) == is_rightwards
        for value, position in pairs:
            expected = start + (value - low) / (high - low) * (end - start)
            assert position == pytest.approx(expected, abs=0.01)


def test_a_roofline_says_in_words_what_it_shows() -> None:
    label = svgs("full")["roofline-1-wide"].attrib["aria-label"]
    assert "Roofline: eager-fused" in label
    assert "aten::convolution at 49.5 FLOP per modelled byte reaches 221 GFLOP/s" in label, label
    assert "max_pool" not in label  # it has no place in the picture


def test_the_roofs_table_has_every_operator_and_why_a_figure_is_missing() -> None:
    rows = [[plain(cell) for cell in row] for row in parsed("full").tables["rooflines"]]
    shown = [row[:2] for row in rows[1:]]
    expected = [
        [arm.name, row.name] for arm in ordered_arms(report("full")) for row in arm.operators
    ]
    assert shown[: len(expected)] == expected
    pool = next(row for row in rows if row[1] == "aten::max_pool2d_with_indices")
    assert pool[3:] == ["32 %", "n/a1", "n/a1", "8 %"]
    conv = next(row for row in rows if row[1] == "aten::convolution")
    assert conv[2:] == ["2.17", "15 %", "221", "49.5", "80 %"]
    # An arm that was timed alone says so in its own row.
    assert [row[0] for row in rows if row[1].startswith("n/a")] == ["channels-last", "eager"]
    assert sample_report.NO_FORMULA in markdown("full")
    assert "Roof, measured in this run in float32: product 277, convolution 262 GFLOP/s" in (
        markdown("full")
    )


def test_a_report_from_before_there_were_rooflines_is_drawn_without() -> None:
    old = replace(
        report("full"),
        ceilings=None,
        arms={n: replace(arm, operators=[]) for n, arm in report("full").arms.items()},
    )
    said = "the run was made by a version that drew none"
    assert f"No picture: {said}." in render_html(old)
    assert f"None: {said}." in render_markdown(old)


def test_absent_pictures_say_why() -> None:
    assert svgs("incomplete_after_gate") == {}
    assert page("incomplete_after_gate").count("No picture: interrupted before") == 6
    assert set(svgs("no_epochs")) == {
        f"{name}-{width}"
        for name in ("throughput", "pairs", "steps", "roofline-0", "roofline-1")
        for width in ("wide", "narrow")
    }
    assert page("no_epochs").count("No picture: no epoch was asked for.") == 2


def test_hostile_text_stays_text() -> None:
    shown = fmt.clean(sample_report.HOSTILE)
    assert "<script" not in page("hostile").lower()
    assert "<script" not in markdown("hostile").lower()
    assert "\x08" not in page("hostile") + markdown("hostile")
    rows = parsed("hostile").tables["arms"]
    assert plain(rows[0][1]) == plain(f"{shown}0")
    assert parsed("hostile").texts["title"][0].startswith(shown)
    hrefs = [a["href"] or "" for tag, a in parsed("hostile").tags if tag == "a"]
    assert all(href.startswith("data:application/json;base64,") for href in hrefs)
    literal = [e for e in svgs("hostile")["throughput-wide"].iter() if e.tag.endswith("}text")]
    assert (literal[0].text or "").startswith("</script><script>alert(")


def test_users_matplotlib_settings_neither_matter_nor_change() -> None:
    with matplotlib.rc_context({"svg.fonttype": "path", "font.size": 30, "text.usetex": True}):
        before = dict(matplotlib.rcParams)
        assert render_html(report("full")) == page("full")
        assert dict(matplotlib.rcParams) == before


def test_large_json_is_not_printed_on_the_page() -> None:
    full = report("full")
    large = render_html(replace(full, windows=full.windows * 200))
    assert "<pre>" not in large
    assert len(large.encode()) < 2_000_000
    assert large.count("base64,") == 1


def test_committed_schema_is_the_records() -> None:
    committed = (ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8")
    assert committed == schema_text(), (
        "write docs/report.schema.json again: python -c 'from fastmodel.harness.report import"
        ' schema_text; print(schema_text(), end="")\' > docs/report.schema.json'
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_schema_accepts_every_report(variant: str) -> None:
    committed = json.loads((ROOT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(committed)
    jsonschema.validate(json.loads(ADAPTER.dump_json(report(variant))), committed)


@pytest.mark.parametrize(
    "path", ["schema_version", "complete", "arms.fastmodel.energy_j", "speedup.ci95"]
)
def test_schema_requires_every_key(path: str) -> None:
    record = json.loads(json.dumps(asdict(report("full"))))
    *parents, last = path.split(".")
    inner = record
    for key in parents:
        inner = inner[key]
    del inner[last]
    with pytest.raises(jsonschema.ValidationError, match=last):
        jsonschema.validate(record, schema())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fmt.ratio(3.2134), "3.21\u00d7"),
        (fmt.ratio(0.9996), "1.000\u00d7"),
        (fmt.ratio(12.345), "12.3\u00d7"),
        (fmt.throughput(13904.4), "13,904"),
        (fmt.throughput(4.3271), "4.327"),
        (fmt.percent(0.98925), "98.92 %"),
        (fmt.target("0.995"), "99.5 %"),
        (fmt.target("top-5"), "top-5"),
        (fmt.seconds(0), "0 s"),
        (fmt.seconds(0.0000042), "4.20 us"),
        (fmt.seconds(0.0121), "12.1 ms"),
        (fmt.seconds(59.99), "60.0 s"),
        (fmt.seconds(3600), "60.0 min"),
        (fmt.seconds(36000), "10.0 h"),
        (fmt.size(1023), "1,023 B"),
        (fmt.size(8_326_742_016), "7.75 GiB"),
        (fmt.energy(152.0), "152 J"),
        (fmt.energy(15200.0), "15.2 kJ"),
        (fmt.usd(0.0001032), "$0.000103"),
        (fmt.usd(0), "$0"),
        (fmt.loss(float("nan")), "not a number"),
        (fmt.seconds(float("-inf")), "minus infinite"),
        (fmt.clean("a\x00b\n c\u202e"), "ab c"),
        (fmt.shorten("x" * 30, 10), "xxxxxxxxx\u2026"),
    ],
)
def test_format(text: str, expected: str) -> None:
    assert text == expected


TARGETS = (("98 %", "0.98"), ("99 %", "0.99"))


def test_cost_table_holds_the_record() -> None:
    for variant in ("full", "long_run"):
        table = {plain(row[0]): row[1:] for row in parsed(variant).tables["costs"]}
        fast = report(variant).arms["fastmodel"]
        to = {f"Training to {t}": fast.cost_usd_to_accuracy[k] for t, k in TARGETS}
        shown = to | {
            "A million samples, at the timed throughput": fast.cost_usd_per_million_samples,
            "An epoch, at the timed throughput": fast.cost_usd_per_epoch,
            "The whole training run": fast.cost_usd_total,
            "Start-up, on top": fast.cost_usd_startup,
            "Validation, on top": fast.cost_usd_evaluation,
        }
        for row, value in shown.items():
            cell = plain(table[row][0])
            assert cell.startswith("n/a") if value is None else cell == fmt.usd(value), row
    assert "not reached in 2 epochs" in markdown("full")


def test_without_a_rate_there_is_no_money_and_the_reason() -> None:
    assert "costs" not in parsed("missing_values").tables
    assert "None: no rate was given." in plain(page("missing_values"))
    assert "money-wide" not in svgs("missing_values")


def test_electricity_is_shown_where_it_was_asked_for() -> None:
    made = report("full")
    arms = {
        name: cost.with_cost(arm, made.cost_rate, Electricity(0.3, 400.0), made.workload)
        for name, arm in made.arms.items()
    }
    table = money.costs(replace(made, arms=arms, electricity=Electricity(0.3, 400.0)))
    rows = {row[0].text: row[1:] for row in table.rows}
    eager = [arm.name for arm in ordered_arms(made)].index("eager")
    assert rows["Electricity of the training run"][eager].text == fmt.usd(152.04 / 3.6e6 * 0.3)
    assert rows["CO2 equivalent of the training run"][eager].text == "0.0169 g"
    assert rows["CO2 equivalent of the training run"][0].why == sample_report.NO_POWER_COUNTER


def test_other_prices_are_those_of_the_same_machine() -> None:
    rate = cost.prices()["c5.4xlarge"]
    made = replace(report("full"), cost_rate=rate)
    rows = money.other_prices(made).rows
    assert [row[0].detail.split(",")[0] for row in rows] == ["on-demand", "spot"]
    fast = made.arms["fastmodel"].throughput_samples_per_s.estimate
    assert rows[1][1].text == fmt.usd(1e6 / fast * 0.341 / 3600)
    assert money.other_prices(report("missing_values")).rows == []


def test_conditions_are_those_of_the_record() -> None:
    tables = parsed("full").tables
    rest = {row[0]: [plain(cell) for cell in row[1:]] for row in tables["rest"][1:]}
    assert rest["fastmodel"] == ["steady", "3", "-0.4 %"]
    assert rest["eager-fused"][0] == "never steady" and rest["eager-fused"][2] == "+7.1 %"
    assert tables["disturbances"][1][:2] == ["descheduled", "1 of 16"]
    text = plain(page("full"))
    assert "Without the disturbed pairs (1) the ratio would be 3.22" in text


def test_an_arm_that_failed_is_told_with_its_reason() -> None:
    made = replace(report("full"), failures={"compile": "killed by SIGABRT"})
    for text in (render_html(made), render_markdown(made)):
        assert "Arms that failed" in text and "killed by SIGABRT" in text
    assert "Arms that failed" not in page("full")


def test_side_by_side_holds_every_run() -> None:
    runs = [Run("one", report("full")), Run("two<", report("loss")), Run("3", report("single_arm"))]
    shown = Page(comparison.render_html(runs))
    speeds = [[plain(cell) for cell in row] for row in shown.tables["speeds"][1:]]
    assert [row[0] for row in speeds] == ["one", "two<", "3"]
    assert speeds[0][3].startswith("3.21\u00d7") and speeds[1][3].startswith("0.87\u00d7")
    assert speeds[2][3].startswith("n/a")
    assert "went from 0.87\u00d7 to 3.21\u00d7" in plain(" ".join(shown.texts["h1"]))
    text = comparison.render_markdown(runs)
    assert "two&lt;" in text and "only one arm was run" in text
    moved = replace(report("full"), environment=replace(report("full").environment, cpu_model="x"))
    warned = comparison.warnings([Run("a", report("full")), Run("b", moved)])
    assert warned == ["the runs are from different machines"]
