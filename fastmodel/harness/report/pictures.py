"""Every picture of the report with its heading, caption and SVG in two widths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from fastmodel.harness.records import Report
from fastmodel.harness.telemetry_records import Telemetry

from . import (
    charts,
    pairs_chart,
    roles,
    roofline_chart,
    rooflines,
    svg,
    tables,
    telemetry_chart,
    waterfall,
)
from . import format as fmt
from .roles import ordered_arms

HALF, WHOLE, NARROW = 500, 860, 342
"""Widths in pixels: half of the page, the whole page, a telephone."""


@dataclass(frozen=True)
class Picture:
    """One chart drawn for a wide and for a narrow page, or the reason why there is none."""

    heading: str
    caption: str
    wide: str
    narrow: str
    absent: str


def pictures(report: Report) -> dict[str, Picture]:
    """Name to picture."""
    no_throughput = tables.absent_reason(report, "throughput_samples_per_s", "no arm was timed")
    no_epochs = tables.epochs(report).absent

    def picture(
        name: str,
        draw: Callable[[Report, int], Figure | None],
        heading: str,
        caption: str,
        absent: str,
        wide: int = HALF,
    ) -> Picture:
        return _picture(name, lambda width: draw(report, width), heading, caption, absent, wide)

    return {
        "throughput": picture(
            "throughput",
            charts.throughput,
            "Throughput, samples/s",
            "The marks at the ends are 95 % intervals.",
            no_throughput,
        ),
        "pairs": picture(
            "pairs",
            pairs_chart.draw,
            "Ratio of each pair",
            "One dot for each pair of windows. Coloured band: 95 % interval of the mean. Grey band:"
            " the baseline against itself, the noise floor.",
            tables.pairs(report).absent,
        ),
        "loss": picture(
            "loss",
            charts.loss,
            "Loss over training time",
            "Evaluation time is not counted.",
            no_epochs,
        ),
        "accuracy": picture(
            "accuracy",
            charts.accuracy,
            "Validation accuracy over training time",
            "Evaluation time is not counted.",
            no_epochs,
        ),
        "waterfall": picture(
            "waterfall",
            waterfall.draw,
            "What each lever adds, ms a step",
            "How much longer the step takes without it. The levers help, or replace, each other:"
            " together is the difference to the whole.",
            roles.why(report.missing, "waterfall"),
        ),
        "telemetry": picture(
            "telemetry",
            lambda report, width: telemetry_chart.draw(_telemetry(report), width),
            "Telemetry over the training run",
            _telemetry_caption(report),
            tables.absent_reason(report, "telemetry", "the hardware was not sampled"),
            wide=WHOLE,
        ),
        "money": picture(
            "money",
            charts.accuracy_over_money,
            "Validation accuracy over money",
            "What the training time until then cost; start-up and evaluation are not counted.",
            no_epochs if report.cost_rate else fmt.clean(report.missing.get("cost_rate", "")),
        ),
        "steps": picture(
            "steps",
            charts.steps,
            "Where the time of a step goes, ms",
            "The colours are named in the table.",
            tables.steps(report).absent,
            wide=WHOLE,
        ),
    }


def roofline_pictures(report: Report) -> list[Picture]:
    """One for each arm whose operators' work is known, all to the same scales; one says why there is none."""
    arms = rooflines.drawn(report)
    if not arms:
        absent = fmt.clean(report.missing.get("ceilings", ""))
        return [Picture("Roofline", "", "", "", absent or rooflines.table(report).absent)]
    beside = rooflines.everything(report)
    return [
        _picture(
            f"roofline-{index}",
            lambda width, arm=arm: roofline_chart.draw(  # type: ignore[misc]
                arm.operators, report.ceilings, width, beside
            ),
            f"Roofline: {fmt.clean(arm.name)}",
            rooflines.CAPTION if index == 0 else "",
            "",
            HALF,
            rooflines.description(arm),
        )
        for index, arm in enumerate(arms)
    ]


def _picture(
    name: str,
    draw: Callable[[int], Figure | None],
    heading: str,
    caption: str,
    absent: str,
    wide: int,
    words: str = "",
) -> Picture:
    """`words` say what is drawn to who cannot see it, where the caption does not."""
    label = " ".join(f"{heading}. {caption} {words}".split())
    texts = []
    for variant, width in (("wide", wide), ("narrow", NARROW)):
        with svg.drawing(f"{name}-{variant}"):
            drawn = draw(width)
            texts.append(svg.to_svg(drawn, f"{name}-{variant}", label) if drawn else "")
    return Picture(heading, caption, texts[0], texts[1], absent)


def _telemetry(report: Report) -> Telemetry | None:
    """Of the first arm that was sampled, the optimized one before the others."""
    return next((arm.telemetry for arm in ordered_arms(report) if arm.telemetry is not None), None)


def _telemetry_caption(report: Report) -> str:
    arm = next((arm for arm in ordered_arms(report) if arm.telemetry is not None), None)
    if arm is None or arm.telemetry is None:
        return ""
    return f"Arm {fmt.clean(arm.name)}, each from zero. Source: {arm.telemetry.source}."
