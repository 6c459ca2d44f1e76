"""The report's tables as data: the same cells go into the HTML and the Markdown."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from fastmodel.harness.cost import JOULES_PER_KWH
from fastmodel.harness.records import Arm, Interval, Report

from . import format as fmt
from .roles import baseline_arm, optimized_arm, ordered_arms, why

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """A value as text, perhaps with an interval (`detail`), or n/a and the reason (`why`)."""

    text: str
    detail: str = ""
    why: str = ""
    link: str = ""
    swatch: int | None = None
    is_prose: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of cells; `numeric` columns are set flush right, column `emphasis` stands out."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: frozenset[int] = frozenset()
    emphasis: int | None = None
    remarks: list[str] = field(default_factory=list)
    absent: str = ""
    """Why there are no rows."""

    @property
    def footnotes(self) -> list[str]:
        """The reasons for missing values, each once, in the order of their first mark."""
        reasons = (cell.why for row in self.rows for cell in row if cell.why)
        return list(dict.fromkeys(reasons))

    def mark(self, cell: Cell) -> int:
        """The number of the footnote that says why `cell` is missing."""
        return self.footnotes.index(cell.why) + 1


def missing(reason: str) -> Cell:
    return Cell(fmt.NOT_AVAILABLE, why=fmt.clean(reason))


def text(value: str) -> Cell:
    return Cell(fmt.clean(value))


def _finite_or_missing(value: float | None, show: Callable[[float], str]) -> Cell:
    """A number that its record leaves out where it was infinite or not a number."""
    return missing("not finite") if value is None else Cell(show(value))


def arms(report: Report) -> Table:
    """Every arm's figures, one arm a column, the optimized arm first."""
    shown = ordered_arms(report)

    def row(label: str, cell: Callable[[Arm], Cell]) -> list[Cell]:
        return [text(label), *(cell(arm) for arm in shown)]

    def value(label: str, name: str, show: Callable[..., str]) -> list[Cell]:
        return row(label, lambda arm: _field(arm, name, show))

    rows = [
        row("What it is", lambda arm: Cell(fmt.clean(arm.description), is_prose=True)),
        row("Throughput, samples/s", _throughput),
        *(_token_rows(report, row, value) if report.workload.tokens_per_sample else []),
        row("Ratio to best PyTorch arm", lambda arm: _ratio(report, arm)),
        row("Epochs trained", _epoch_count),
        row("Validation accuracy", _validation_accuracy),
        value("Test accuracy", "test_accuracy", fmt.percent),
        value("Test loss", "test_loss", fmt.loss),
    ]
    for key in _targets(shown):
        label = f"Training time to {fmt.target(key)}"
        rows.append(row(label, lambda arm, key=key: _time_to(arm, key)))  # type: ignore[misc]
    rows += [
        value("Training time", "train_time_s", fmt.seconds),
        value("Peak memory", "peak_memory_bytes", fmt.size),
        row("Energy", _energy),
        value("Start-up", "startup_time_s", fmt.seconds),
        value("Validation", "evaluation_time_s", fmt.seconds),
    ]
    remarks = [
        "Ranges are 95 % intervals. Validation accuracy is that of the last epoch, and the training"
        " time to an accuracy ends with the first epoch whose validation accuracy reached it."
    ]
    if report.speedup is not None:
        remarks.append(
            "A ratio with an interval comes from paired windows; one without is the quotient of"
            " two throughputs."
        )
    optimized = optimized_arm(report)
    return Table(
        "arms",
        "Arms",
        ["", *(fmt.clean(arm.name) for arm in shown)],
        rows,
        numeric=frozenset(range(1, len(shown) + 1)),
        emphasis=None if optimized is None else 1,
        remarks=remarks,
    )


def _token_rows(
    report: Report,
    row: Callable[[str, Callable[[Arm], Cell]], list[Cell]],
    value: Callable[[str, str, Callable[..., str]], list[Cell]],
) -> list[list[Cell]]:
    """What is said of a language model alone."""
    rows = [row("Throughput, tokens/s", _token_rate)]
    for label, name in (
        ("Model FLOPs utilization, of the measured peak", "utilization_of_measured_peak"),
        ("Model FLOPs utilization, of the quoted peak", "utilization_of_quoted_peak"),
    ):
        rows.append(value(label, name, fmt.percent))
    if report.workload.bytes_per_target is not None:
        rows += [
            value("Validation bits per byte", "validation_bits_per_byte", fmt.loss),
            value("The same before training", "untrained_bits_per_byte", fmt.loss),
        ]
    return rows


def _field(record: Arm, name: str, show: Callable[..., str]) -> Cell:
    value = getattr(record, name)
    return missing(why(record.missing, name)) if value is None else Cell(show(value))


def _throughput(arm: Arm) -> Cell:
    return _rate(arm, arm.throughput_samples_per_s, "throughput_samples_per_s")


def _token_rate(arm: Arm) -> Cell:
    return _rate(arm, arm.throughput_tokens_per_s, "throughput_tokens_per_s")


def _rate(arm: Arm, interval: Interval | None, name: str) -> Cell:
    if interval is None:
        return missing(why(arm.missing, name))
    low, high = map(fmt.throughput, interval.ci95)
    return Cell(fmt.throughput(interval.estimate), f"{low}{fmt.TO}{high}")


def _energy(arm: Arm) -> Cell:
    if arm.energy_j is None:
        return missing(why(arm.missing, "energy_j"))
    kwh = f"{fmt.significant(arm.energy_j / JOULES_PER_KWH)} kWh"
    source = fmt.clean(arm.energy_source or "")
    return Cell(fmt.energy(arm.energy_j), f"{kwh}, {source}" if source else kwh)


def _ratio(report: Report, arm: Arm) -> Cell:
    baseline = baseline_arm(report)
    if report.speedup is not None and arm is optimized_arm(report):
        interval = fmt.ratio_interval(report.speedup.ci95)
        return Cell(fmt.ratio(report.speedup.estimate), interval)
    own = arm.throughput_samples_per_s
    if own is None:
        return missing(why(arm.missing, "throughput_samples_per_s"))
    if arm is baseline:
        return Cell("1 (reference)")
    reference = baseline.throughput_samples_per_s if baseline is not None else None
    if reference is None or reference.estimate <= 0:
        return missing("no plain PyTorch arm was timed")
    return Cell(fmt.ratio(own.estimate / reference.estimate))


def _epoch_count(arm: Arm) -> Cell:
    return Cell(fmt.count(len(arm.epochs))) if arm.epochs else missing(_no_epochs(arm))


def _no_epochs(arm: Arm) -> str:
    reasons = arm.missing
    return reasons.get("epochs") or reasons.get("train_time_s") or "no epoch was trained"


def _validation_accuracy(arm: Arm) -> Cell:
    if not arm.epochs:
        return missing(_no_epochs(arm))
    return Cell(fmt.percent(arm.epochs[-1].validation_accuracy))


def _targets(shown: list[Arm]) -> list[str]:
    """The target accuracies that any arm names."""
    return sorted({key for arm in shown for key in arm.time_to_accuracy_s}) or ["0.98", "0.99"]


def _time_to(arm: Arm, key: str) -> Cell:
    value = arm.time_to_accuracy_s.get(key)
    if value is not None:
        return Cell(fmt.seconds(value))
    reason = arm.missing.get(f"time_to_accuracy_s.{key}") or arm.missing.get("time_to_accuracy_s")
    if reason is None and arm.epochs:
        epochs = len(arm.epochs)
        reason = f"not reached in {epochs} epoch{'s' if epochs > 1 else ''}"
    return missing(reason or _no_epochs(arm))


def steps(report: Report) -> Table:
    """Milliseconds of a step by operator class; the swatches are the legend of the picture."""
    shown = [arm for arm in ordered_arms(report) if arm.step_parts]
    times = {arm.name: {part.name: part for part in arm.step_parts} for arm in shown}
    rows = []
    for index, name in enumerate(step_part_names(report)):
        cells = [Cell(fmt.clean(name), swatch=part_colour(index))]
        for arm in shown:
            part = times[arm.name].get(name)
            cells.append(
                Cell(fmt.milliseconds(part.time_s), fmt.percent(part.share, 0))
                if part is not None
                else Cell(fmt.TO)
            )
        rows.append(cells)
    if rows:
        totals = (sum(part.time_s for part in arm.step_parts) for arm in shown)
        rows.append([Cell("whole step"), *(Cell(fmt.milliseconds(total)) for total in totals)])
    return Table(
        "steps",
        "Where the time of a step goes, ms (share)",
        ["", *(fmt.clean(arm.name) for arm in shown)],
        rows,
        numeric=frozenset(range(1, len(shown) + 1)),
        remarks=[
            "From a profiled run apart from the timed one; a dash: not part of that arm's step."
        ],
        absent=absent_reason(report, "step_parts", "no step was profiled"),
    )


PART_COLOURS = 9
"""Colours for the operator classes of a step; the shortest ones share the last."""


def part_colour(index: int) -> int:
    """The colour of the operator class at `index` of `step_part_names`."""
    return min(index, PART_COLOURS - 1)


def step_part_names(report: Report) -> list[str]:
    """The operator classes of all arms, the longest first: their order is their colour."""
    longest: dict[str, float] = {}
    for arm in report.arms.values():
        for part in arm.step_parts:
            longest[part.name] = max(longest.get(part.name, 0.0), part.time_s)
    return sorted(longest, key=lambda name: (name == "other", -longest[name], name))


def absent_reason(report: Report, name: str, default: str) -> str:
    """Why no arm has `name`: the reasons that the arms give, or else the default."""
    given = (arm.missing.get(name, "") for arm in report.arms.values())
    return _distinct(given) or fmt.clean(report.missing.get(name) or default)


def _distinct(reasons: Iterable[str]) -> str:
    return fmt.clean("; ".join(filter(None, dict.fromkeys(reasons))))


def epochs(report: Report) -> Table:
    """Every epoch of every arm that was trained."""
    rows = [
        [
            text(arm.name),
            Cell(fmt.count(epoch.epoch)),
            Cell(fmt.seconds(epoch.elapsed_train_time_s)),
            _finite_or_missing(epoch.train_loss, fmt.loss),
            _finite_or_missing(epoch.validation_loss, fmt.loss),
            Cell(fmt.percent(epoch.validation_accuracy)),
            Cell(f"{epoch.learning_rate:g}"),
        ]
        for arm in ordered_arms(report)
        for epoch in arm.epochs
    ]
    columns = ["Arm", "Epoch", "Training time so far", "Training loss", "Validation loss"]
    return Table(
        "epochs",
        "Epochs",
        [*columns, "Validation accuracy", "Learning rate"],
        rows,
        numeric=frozenset(range(1, 7)),
        absent=_distinct(map(_no_epochs, report.arms.values())) or "no epoch was trained",
    )


def pairs(report: Report) -> Table:
    """The ratio of every pair."""
    speedup = report.speedup
    ratios = speedup.ratios if speedup is not None else []
    return Table(
        "pairs",
        "Paired samples",
        ["Pair", "Ratio"],
        [[Cell(fmt.count(n)), Cell(fmt.ratio(r))] for n, r in enumerate(ratios, start=1)],
        numeric=frozenset((0, 1)),
        absent=fmt.clean(why(report.missing, "speedup")) if speedup is None else "no pair was kept",
    )


def gate(report: Report) -> Table:
    """The correctness gate, one tensor a row."""
    columns = ["Tensor", "Result", "Error", "Error of the baseline", "Bound"]
    remarks = [
        "An error is the largest difference from float64, from the same weights and batch, over the"
        " reference's largest value."
    ]
    checks = report.gate.checks if report.gate is not None else []
    rows = [
        [
            text(check.name),
            Cell("passed" if check.passed else "FAILED"),
            _finite_or_missing(check.error, fmt.error),
            _finite_or_missing(check.baseline_error, fmt.error),
            _finite_or_missing(check.bound, fmt.error),
        ]
        for check in checks
    ]
    passed = sum(check.passed for check in checks)
    if checks:
        remarks.insert(0, f"{passed} of {len(checks)} checks passed.")
    absent = "the gate made no checks" if report.gate else fmt.clean(why(report.missing, "gate"))
    return Table(
        "gate",
        "Correctness gate",
        columns,
        rows,
        frozenset((2, 3, 4)),
        remarks=remarks,
        absent=absent,
    )


def swaps(report: Report) -> Table:
    """The plan: what was replaced, what was left, and why."""
    rows = [
        [
            text(swap.site),
            text(swap.pattern),
            text(swap.replacement) if swap.replacement is not None else Cell("left as it was"),
            text(swap.reason),
        ]
        for swap in report.swaps
    ]
    absent = fmt.clean(report.missing.get("swaps") or "nothing was swapped")
    return Table(
        "swaps", "Plan", ["Place", "Pattern", "Replacement", "Reason"], rows, absent=absent
    )


def environment(report: Report) -> Table:
    """The machine and the software."""
    env = report.environment

    def value(name: str, show: Callable[[T], str] = fmt.clean) -> Cell:  # type: ignore[assignment]
        found = getattr(env, name)
        return missing(why(env.missing, name)) if found is None else Cell(show(found))

    rows = [
        [Cell("Processor"), value("cpu_model")],
        [Cell("Cores"), Cell(fmt.count(env.cpu_count))],
        [Cell("Threads used"), Cell(fmt.count(env.threads))],
        [Cell("CPU capability"), text(env.cpu_capability)],
        [Cell("Memory"), value("memory_bytes", fmt.size)],
        [Cell("GPUs"), _gpus(report)],
        [Cell("System"), text(env.os)],
        [Cell("Host (hashed)"), text(env.hostname_hash)],
        [Cell("Python"), text(env.python_version)],
        [Cell("PyTorch"), text(env.torch_version)],
        [Cell("fastmodel"), text(env.fastmodel_version)],
        [Cell("Commit"), value("commit")],
    ]
    rows += [[text(f"Backend {name}"), text(state)] for name, state in env.backends.items()]
    return Table("environment", "Environment", ["", ""], rows)


def _gpus(report: Report) -> Cell:
    gpus = report.environment.gpus
    if gpus:
        return text(", ".join(gpus))
    reason = report.environment.missing.get("gpus")
    return missing(reason) if reason else Cell("none")


def _steps_per_window(steps: int | None) -> Cell:
    return missing("no window was timed") if steps is None else Cell(fmt.count(steps))


def _stopped(reason: str | None) -> Cell:
    return missing("it did not") if reason is None else text(reason)


def method(report: Report) -> Table:
    """What was trained, and how it was timed."""
    work, how, rate = report.workload, report.method, report.cost_rate
    rows = [
        [Cell("Command"), Cell(fmt.clean(shlex.join(report.command)))],
        [Cell("Started"), text(report.started_at)],
        [Cell("Duration"), Cell(fmt.seconds(report.duration_s))],
        [Cell("Workload"), text(f"{work.name}: {work.description}")],
        [Cell("Parameters"), Cell(fmt.count(work.parameters))],
        [Cell("Batch size"), Cell(fmt.count(work.batch_size))],
        [Cell("Epochs asked for"), Cell(fmt.count(work.epochs))],
        [Cell("Seed"), Cell(str(work.seed))],
        [Cell("Training samples"), Cell(fmt.count(work.train_samples))],
        [Cell("Validation samples"), Cell(fmt.count(work.validation_samples))],
        [Cell("Test samples"), Cell(fmt.count(work.test_samples))],
        *([text(name), text(value)] for name, value in work.options.items()),
        [Cell("Order of the windows"), text(how.order)],
        [Cell("Pairs"), Cell(fmt.count(how.pairs))],
        [Cell("Steps per window"), _steps_per_window(how.steps_per_window)],
        [Cell("Warm-up steps"), Cell(fmt.count(how.warmup_steps))],
        [Cell("Why the timing ended"), _stopped(how.stopped)],
        [Cell("Bootstrap resamples"), Cell(fmt.count(how.bootstrap_resamples))],
    ]
    if rate is None:
        rows.append([Cell("Rate"), missing(why(report.missing, "cost_rate"))])
    else:
        dated = f", as of {rate.as_of}" if rate.as_of else ""
        rows.append(
            [
                Cell("Rate"),
                text(f"{fmt.usd(rate.rate_usd_per_h)} per hour ({rate.name}, {rate.kind}{dated})"),
            ]
        )
        is_link = rate.source.startswith(("https://", "http://"))
        source = fmt.clean(rate.source)
        trust = fmt.clean(rate.confirmation)
        rows.append(
            [Cell("Source of the rate"), Cell(source, trust, link=source if is_link else "")]
        )
    return Table("method", "Method", ["", ""], rows)
