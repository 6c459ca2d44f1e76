"""The report in a real Chromium, off line: drawn in full at both widths, in light, dark and print."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastmodel.harness.report import comparison, render_html
from fastmodel.harness.report.comparison import Run

from . import sample_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium; apt-get install chromium")

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
REPORTS = {
    "ten epochs": sample_report.long_run,
    "two epochs": sample_report.full,
    "slower": sample_report.loss,
    "cut off": sample_report.incomplete_after_gate,
    "missing": sample_report.missing_values,
    "hostile": sample_report.hostile,
}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    texts = {name: render_html(make()) for name, make in REPORTS.items()}
    runs = [Run("batch size 32", sample_report.full()), Run("<b>64</b>", sample_report.loss())]
    texts["side by side"] = comparison.render_html(runs)
    paths = {}
    for name, text in texts.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(text)
    return paths


class Tab:
    """A page that is opened, with all that it said and asked for."""

    def __init__(self, browser, path: Path, width: int = 1280, theme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, offline=True
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def boxes(self, selector: str) -> list[dict[str, float]]:
        """Boxes of what is visible, in pixels."""
        found = [element.bounding_box() for element in self.page.query_selector_all(selector)]
        return [box for box in found if box is not None and box["width"] + box["height"] > 0]


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", [*REPORTS, "side by side"])
def test_it_is_whole_quiet_and_off_line(browser, pages, name, theme, width):
    with Tab(browser, pages[name], width, theme) as tab:
        assert tab.said == []
        assert tab.asked == [pages[name].as_uri()]
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        style = "getComputedStyle(document.body)"
        paper, ink = (
            brightness(tab.page.evaluate(f"{style}.{it}")) for it in ("backgroundColor", "color")
        )
        assert (paper > 200 > 80 > ink) if theme == "light" else (paper < 60 < 180 < ink)
        # One of the two drawings of each picture is there, within the page.
        figures = tab.page.query_selector_all("figure")
        for figure in figures:
            svgs = [svg for svg in figure.query_selector_all("svg") if svg.is_visible()]
            assert len(svgs) == 1 or figure.query_selector(".absent")
            for svg in svgs:
                box = svg.bounding_box()
                assert box["width"] > 250 and box["height"] > 40
                assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1
        # No text on top of other text in a picture.
        for svg in tab.page.query_selector_all("figure svg"):
            if svg.is_visible():
                assert overlaps(svg) == []


def overlaps(svg) -> list[str]:
    """Pairs of texts in a picture whose boxes cross by more than a pixel each way."""
    boxes = [
        (text.text_content(), text.bounding_box())
        for text in svg.query_selector_all("text")
        if text.text_content().strip()
    ]
    found = []
    for index, (one, a) in enumerate(boxes):
        for other, b in boxes[index + 1 :]:
            across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            down = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            if across > 1 and down > 5:
                found.append(f"{one!r} over {other!r}")
    return found


@pytest.mark.parametrize("width", WIDTHS)
def test_pictures_show_the_data_that_can_be_downloaded(browser, pages, width):
    kind = "wide" if width == 1280 else "narrow"
    with Tab(browser, pages["ten epochs"], width) as tab:
        href = tab.page.get_attribute("a[download]", "href")
        data = json.loads(base64.b64decode(href.partition(",")[2]))
        rates = sorted(arm["throughput_samples_per_s"]["estimate"] for arm in data["arms"].values())
        bars = sorted(
            box["width"] for box in tab.boxes(f"[id^={kind_id('throughput', kind, 'arm-')}]")
        )
        assert len(bars) == len(rates)
        for bar, rate in zip(bars, rates, strict=True):
            assert bar / bars[-1] == pytest.approx(rate / rates[-1], abs=0.02)
        ratios = data["speedup"]["ratios"]
        dots = tab.boxes(f"[id^={kind_id('pairs', kind, 'pair-')}]")
        assert len(dots) == len(ratios)
        by_height = sorted(range(len(dots)), key=lambda n: -dots[n]["y"] - dots[n]["height"] / 2)
        in_order = [ratios[n] for n in by_height]
        assert in_order == pytest.approx(sorted(ratios), abs=0.01)
        for picture in ("loss", "accuracy", "money"):
            lines = (
                [f"validation-{n}" for n in range(2)]
                if picture != "money"
                else ["money-0", "money-1"]
            )
            for line in lines:
                marks = tab.page.query_selector_all(f"#{kind_id(picture, kind, line)} use")
                assert len(marks) == data["workload"]["epochs"], (picture, line)
        for index, name in enumerate(("fastmodel", "eager-fused")):
            operators = [row for row in data["arms"][name]["operators"] if row["flops"]]
            dots = tab.boxes(f"[id^={kind_id(f'roofline-{index}', kind, 'operator-')}]")
            assert len(dots) == len(operators)
            # The higher an operator's rate, the higher its dot; the larger its share, the larger.
            order = range(len(dots))
            by_rate = sorted(order, key=lambda n: operators[n]["gflop_per_s"])
            assert sorted(order, key=lambda n: -middle(dots[n])) == by_rate
            by_share = sorted(order, key=lambda n: operators[n]["share"])
            assert sorted(order, key=lambda n: dots[n]["width"]) == by_share
        parts = sum(len(arm["step_parts"]) for arm in data["arms"].values())
        assert len(tab.boxes(f"[id^={kind_id('steps', kind, 'part-')}]")) == parts


def middle(box: dict[str, float]) -> float:
    return box["y"] + box["height"] / 2


def kind_id(picture: str, kind: str, rest: str) -> str:
    return f"{picture}-{kind}-{rest}"


def test_money_is_the_time_at_the_rate(browser, pages):
    """The dots of accuracy over money stand where those over time do: one is the other, scaled."""
    with Tab(browser, pages["ten epochs"]) as tab:
        positions = []
        for picture, line in (("accuracy", "validation"), ("money", "money")):
            marks = tab.page.query_selector_all(f"#{picture}-wide-{line}-0 use")
            positions.append([mark.bounding_box()["x"] for mark in marks])
        steps = [[b - a for a, b in itertools.pairwise(xs)] for xs in positions]
        assert steps[0] == pytest.approx(steps[1], rel=0.05)


def test_it_works_from_the_keyboard(browser, pages):
    with Tab(browser, pages["ten epochs"], 390) as tab:
        reached = []
        for _ in range(60):
            tab.page.keyboard.press("Tab")
            reached.append(tab.page.evaluate("document.activeElement.tagName"))
            if reached[-1] == "SUMMARY" and reached.count("SUMMARY") == 1:
                tab.page.keyboard.press("Enter")
        assert {"SUMMARY", "A", "DIV"} <= set(reached)
        assert tab.page.query_selector("details").get_attribute("open") is not None
        # A table wider than the screen is a region that takes the focus and can be scrolled.
        region = tab.page.query_selector(".scroll")
        region.focus()
        for _ in range(5):
            tab.page.keyboard.press("ArrowRight")
        for _ in range(40):  # it scrolls smoothly
            tab.page.wait_for_timeout(50)
            if region.evaluate("it => it.scrollLeft") > 0:
                break
        assert region.evaluate("it => it.scrollLeft") > 0


def test_a_screen_reader_finds_its_way(browser, pages):
    with Tab(browser, pages["ten epochs"]) as tab:
        spoken = tab.page.locator("body").aria_snapshot()
        assert spoken.count("heading") >= 10 and spoken.count("[level=1]") == 1
        for heading in ("Throughput, samples/s", "Ratio of each pair", "Loss over training time"):
            assert f'img "{heading}' in spoken
        assert 'region "Arms"' in spoken and "table" in spoken and "columnheader" in spoken
        assert tab.page.get_attribute("html", "lang") == "en"
        levels = [
            int(heading.evaluate("it => it.tagName")[1])
            for heading in tab.page.query_selector_all("h1, h2, h3")
        ]
        assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels))


def test_text_can_be_told_from_its_ground(browser, pages):
    for theme in THEMES:
        with Tab(browser, pages["ten epochs"], theme=theme) as tab:
            for name in ("--ink", "--muted", "--link", "--alarm"):
                colours = [
                    tab.page.evaluate(
                        f"getComputedStyle(document.documentElement).getPropertyValue('{it}')"
                    ).strip()
                    for it in (name, "--paper")
                ]
                assert contrast(*colours) >= 4.5, (theme, name, colours)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_it_prints_black_on_white(browser, pages):
    with Tab(browser, pages["ten epochs"], theme="dark") as tab:
        tab.page.emulate_media(media="print")
        assert (
            brightness(tab.page.evaluate("getComputedStyle(document.body).backgroundColor")) > 250
        )
        assert brightness(tab.page.evaluate("getComputedStyle(document.body).color")) < 5
        sheets = tab.page.pdf(format="A4")
        assert sheets.startswith(b"%PDF") and sheets.count(b"/Type /Page\n") < 12


def test_a_page_is_small(pages):
    assert all(path.stat().st_size < 2_000_000 for path in pages.values())
