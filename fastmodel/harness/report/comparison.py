"""Several reports on one page: machines, batch sizes, threads or versions side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastmodel.harness.records import Arm, Report

from . import format as fmt
from . import svg
from .html import environment
from .markdown import escape, section
from .pictures import NARROW, WHOLE, Picture
from .roles import baseline_arm, optimized_arm, why
from .tables import Cell, Table, missing, text

TITLE = "fastmodel: runs side by side"


@dataclass(frozen=True)
class Run:
    """A report and the name that it goes by on the page."""

    label: str
    report: Report


def render_html(runs: Sequence[Run]) -> str:
    """The page; links lead to the reports in folders beside it, by label."""
    page: Environment = environment()
    css = page.loader.get_source(page, "report.css")[0]  # type: ignore[union-attr]
    return page.get_template("comparison.html.j2").render(
        title=TITLE,
        css=Markup(css),
        sentence=sentence(runs),
        ratios=_picture(runs),
        tables=[speeds(runs), costs(runs), places(runs)],
        warnings=warnings(runs),
    )


def render_markdown(runs: Sequence[Run]) -> str:
    """The same as Markdown."""
    blocks = [f"# {TITLE}", f"**{escape(sentence(runs))}**"]
    blocks += [f"> {escape(warning)}" for warning in warnings(runs)]
    for table in (speeds(runs), costs(runs), places(runs)):
        blocks += section(table)
    return "\n\n".join(blocks) + "\n"


def sentence(runs: Sequence[Run]) -> str:
    """How many runs, and from where to where their ratios go."""
    ratios = [run.report.speedup.estimate for run in runs if run.report.speedup is not None]
    if not ratios:
        return f"{len(runs)} runs, none of which compared speeds."
    low, high = fmt.ratio(min(ratios)), fmt.ratio(max(ratios))
    span = f"was {low}" if low == high else f"went from {low} to {high}"
    return (
        f"In {len(ratios)} of {len(runs)} runs speeds were compared: fastmodel's throughput over that of "
        f"PyTorch's best arm {span}."
    )


def warnings(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before holding one run against another."""
    found = [
        f"{run.label} is incomplete: {fmt.clean(run.report.incomplete_reason or '')}"
        for run in runs
        if not run.report.complete
    ]
    if len({run.report.workload.name for run in runs}) > 1:
        found.append("the runs are of different workloads: only the ratios can be held together")
    if len({run.report.environment.cpu_model for run in runs}) > 1:
        found.append("the runs are from different machines")
    return found


def speeds(runs: Sequence[Run]) -> Table:
    """Throughput of the optimized arm and its baseline, and their ratio, a run a row."""
    rows = []
    for run in runs:
        fast, base = optimized_arm(run.report), baseline_arm(run.report)
        speedup = run.report.speedup
        ratio = (
            missing(why(run.report.missing, "speedup"))
            if speedup is None
            else Cell(fmt.ratio(speedup.estimate), fmt.ratio_interval(speedup.ci95))
        )
        rows.append([text(run.label), _rate(fast), _rate(base, with_name=True), ratio])
    columns = ["Run", "fastmodel, samples/s", "PyTorch's best, samples/s", "Ratio"]
    return Table("speeds", "Speed", columns, rows, frozenset((1, 2, 3)), emphasis=3)


def _rate(arm: Arm | None, with_name: bool = False) -> Cell:
    if arm is None or arm.throughput_samples_per_s is None:
        return missing("not timed")
    rate = arm.throughput_samples_per_s
    low, high = map(fmt.throughput, rate.ci95)
    name = f"{arm.name}, " if with_name else ""
    return Cell(fmt.throughput(rate.estimate), fmt.clean(f"{name}{low}{fmt.TO}{high}"))


def costs(runs: Sequence[Run]) -> Table:
    """Money of the optimized arm and its baseline: by the million samples, and to the last target."""
    rows = []
    for run in runs:
        row = [text(run.label)]
        for arm in (optimized_arm(run.report), baseline_arm(run.report)):
            row.append(_usd(arm, "cost_usd_per_million_samples"))
            row.append(_to_target(arm))
        rows.append(row)
    columns = ["Run", "fastmodel, a million samples", "to 99 %"]
    columns += ["PyTorch's best, a million samples", "to 99 %"]
    return Table("costs", "Cost", columns, rows, frozenset((1, 2, 3, 4)))


def _usd(arm: Arm | None, name: str) -> Cell:
    value = None if arm is None else getattr(arm, name)
    if arm is None or value is None:
        return missing("not timed" if arm is None else why(arm.missing, name))
    return Cell(fmt.usd(value))


def _to_target(arm: Arm | None) -> Cell:
    key = "0.99"
    if arm is None or not arm.epochs:
        return missing("not trained" if arm is None else why(arm.missing, "train_time_s"))
    time_s, usd = arm.time_to_accuracy_s.get(key), arm.cost_usd_to_accuracy.get(key)
    if time_s is None:
        return missing(f"not reached in {len(arm.epochs)} epochs")
    return Cell(fmt.seconds(time_s), "no rate given" if usd is None else fmt.usd(usd))


def places(runs: Sequence[Run]) -> Table:
    """What each run was, and where."""
    rows = []
    for run in runs:
        env, work = run.report.environment, run.report.workload
        machine = ", ".join([env.cpu_model or "unknown processor", *env.gpus])
        rows.append(
            [
                text(run.label),
                text(work.name),
                Cell(fmt.count(work.batch_size)),
                Cell(fmt.count(env.threads)),
                text(machine),
                text(env.torch_version),
                text(run.report.started_at),
            ]
        )
    columns = ["Run", "Workload", "Batch size", "Threads", "Machine", "PyTorch", "Started"]
    return Table("places", "Runs", columns, rows, frozenset((2, 3)))


def _picture(runs: Sequence[Run]) -> Picture:
    heading = "Ratio of each run, with its 95 % interval"
    caption = "1 is as fast as PyTorch's best arm; to the right fastmodel is faster."
    texts = []
    for variant, width in (("wide", WHOLE), ("narrow", NARROW)):
        with svg.drawing(f"ratios-{variant}"):
            drawn = _draw(runs, width)
            label = f"{heading}. {caption}"
            texts.append(svg.to_svg(drawn, f"ratios-{variant}", label) if drawn else "")
    return Picture(heading, caption, texts[0], texts[1], "no run compared speeds")


def _draw(runs: Sequence[Run], width: int) -> Figure | None:
    shown = [run for run in runs if run.report.speedup is not None]
    if not shown:
        return None
    row = 46
    drawn = svg.figure(width, row * len(shown) + 40)
    axes = svg.axes(drawn, left=8, right=76, top=0, bottom=32)
    axes.set_ylim(len(shown) * row, 0)
    ends = [1.0]
    for index, run in enumerate(shown):
        speedup = run.report.speedup
        assert speedup is not None
        middle = index * row + 32
        low, high = (end if math.isfinite(end) else speedup.estimate for end in speedup.ci95)
        ends += [low, high]
        axes.plot([low, high], [middle, middle], color=svg.OPTIMIZED, linewidth=3, alpha=0.5)
        axes.plot(
            [speedup.estimate],
            [middle],
            "o",
            color=svg.OPTIMIZED,
            markersize=9,
            markeredgecolor=svg.PAPER,
            gid=f"ratio-{index}",
        )
        name = fmt.shorten(run.label, width // 9)
        axes.text(0, middle - 15, name, va="baseline", transform=axes.get_yaxis_transform())
        at = (high, middle)
        svg.note(axes, at, (10, 0), fmt.ratio(speedup.estimate), "data", weight="bold")
    room = (max(ends) - min(ends)) * 0.06 or 0.05
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.axvline(1, color=svg.MUTED, linewidth=1, gid="one")
    axes.set_yticks([])
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}{fmt.TIMES}"))
    return drawn
