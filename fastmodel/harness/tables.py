"""Results as tables for a terminal. Reads records, measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.markup import escape
from rich.table import Table

import fastmodel as fm
from fastmodel.harness.compare import NEW, OLD, Comparisons, SideBySide, Verdict
from fastmodel.harness.records import Arm, CostRate, Interval, Report
from fastmodel.timing import mean_ratio

_NONE = "-"


def bench_table(report: Report) -> Table:
    """Arms against throughput, ratio, accuracy, time and money."""
    table = Table(title=_title(report), caption=_caption(report), caption_justify="left")
    table.add_column("arm", no_wrap=True)
    for heading in (
        "samples/s [95 %]",
        "vs best",
        "val acc",
        "test acc",
        "s/epoch",
        "USD/epoch",
        "peak MiB",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in report.arms.values():
        table.add_row(*_arm_cells(arm, report), style="bold" if arm.is_optimized else None)
    return table


def comparison_table(comparisons: Comparisons) -> Table:
    """One row a figure."""
    notes = [*comparisons.warnings, *_gate_line(comparisons.gate)]
    table = Table(caption=escape("\n".join(notes)) or None, caption_justify="left")
    for heading in ("figure", "old [95 %]", "new [95 %]", "new / old [95 %]", "verdict"):
        table.add_column(heading)
    for row in comparisons.rows:
        ratio = _interval(row.ratio, 3)
        digits = 2 if row.name == "speedup" else 0
        table.add_row(
            row.name, _interval(row.old, digits), _interval(row.new, digits), ratio, row.verdict
        )
    return table


def side_by_side_table(found: SideBySide) -> Table:
    """One row a session, and the ratio over all of them."""
    low, high = found.ratio.ci95
    notes = [
        f"{found.workload}: {found.steps_per_window} steps a window after {found.warmup_steps} of warm-up",
        f"speed new / old {found.ratio.estimate:.3f} [{low:.3f}, {high:.3f}]",
        *_gate_line(found.gate),
    ]
    table = Table(caption=escape("\n".join(notes)), caption_justify="left")
    for heading in ("session", "pairs", "old ms/step", "new ms/step", "speed new / old"):
        table.add_column(heading, justify="right")
    for number, session in enumerate(found.sessions, 1):
        times = [f"{1e3 * session.step_time_s[name]:.3f}" for name in (OLD, NEW)]
        ratio = f"{mean_ratio(session.ratios).value:.3f}"
        table.add_row(str(number), str(len(session.ratios)), *times, ratio)
    return table


def _gate_line(gate: Verdict | None) -> list[str]:
    if gate is None:
        return []
    return [f"gate {'passed' if gate.passed else 'FAILED'}: {gate.reason}"]


def workload_table(descriptions: Mapping[str, str]) -> Table:
    """The workloads that come with the package."""
    table = Table(title="workloads; or path/to/file.py:make_workload")
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name, description in descriptions.items():
        table.add_row(name, escape(description))
    return table


def price_table(prices: Mapping[str, CostRate]) -> Table:
    """The list of prices, for --instance."""
    table = Table(title="prices, for --instance")
    for heading in ("instance", "what it is", "USD/h", "kind", "as of", "confirmed"):
        right = heading == "USD/h"
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for name, rate in prices.items():
        cells = (name, rate.name, f"{rate.rate_usd_per_h:g}", rate.kind, rate.as_of or _NONE)
        table.add_row(*(escape(cell) for cell in cells), escape(rate.confirmation or _NONE))
    return table


def kernel_table(rows: Iterable[Mapping[str, object]]) -> Table:
    """The kernel table with each row's state."""
    table = Table()
    for heading in ("op", "pass", "backend", "state", "evidence"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        state = "available" if row["available"] else f"no: {row['reason']}"
        cells = (row["op"], row["pass"], row["backend"], state, row["evidence"])
        table.add_row(*(escape(str(cell)) for cell in cells))
    return table


def kernel_rows() -> list[dict[str, object]]:
    """`fm.kernels()` as plain data."""
    return [
        {
            "op": row.op,
            "pass": row.pass_,
            "backend": row.backend,
            "available": row.available,
            "reason": row.reason,
            "evidence": row.evidence,
        }
        for row in fm.kernels()
    ]


def doctor_table(facts: Mapping[str, object]) -> Table:
    """The facts of `doctor`, one a row; nested ones are indented."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if isinstance(value, Mapping):
            for inner, text in value.items():
                table.add_row(f"{name}: {inner}", escape(str(text)))
        elif isinstance(value, list):
            table.add_row(name, escape(", ".join(map(str, value))) or "none")
        else:
            table.add_row(name, _NONE if value is None else escape(str(value)))
    return table


def _arm_cells(arm: Arm, report: Report) -> list[str]:
    epochs = arm.epochs
    accuracy = f"{epochs[-1].validation_accuracy:.2%}" if epochs else _NONE
    seconds = sum(e.train_time_s for e in epochs) / len(epochs) if epochs else None
    cost, memory = arm.cost_usd_per_epoch, arm.peak_memory_bytes
    return [
        escape(arm.name),
        _interval(arm.throughput_samples_per_s, 0),
        _ratio(arm, report),
        accuracy,
        _NONE if arm.test_accuracy is None else f"{arm.test_accuracy:.2%}",
        _NONE if seconds is None else f"{seconds:.1f}",
        _NONE if cost is None else f"{cost:.2e}",
        _NONE if memory is None else f"{memory / 2**20:.0f}",
    ]


def _tokens(arm: Arm) -> str:
    """What is said of a language model alone; empty for others."""
    rate = arm.throughput_tokens_per_s
    parts = [] if rate is None else [f"{rate.estimate:,.0f} tokens/s"]
    if arm.utilization_of_measured_peak is not None:
        parts.append(f"{arm.utilization_of_measured_peak:.1%} of the measured peak")
    if arm.utilization_of_quoted_peak is not None:
        parts.append(f"{arm.utilization_of_quoted_peak:.1%} of the quoted peak")
    if arm.validation_bits_per_byte is not None:
        parts.append(f"{arm.validation_bits_per_byte:.3f} bits per byte")
    if arm.cost_usd_per_million_tokens is not None:
        parts.append(f"{arm.cost_usd_per_million_tokens:.2e} USD per million tokens")
    return f"{arm.name}: {', '.join(parts)}" if parts else ""


def _ratio(arm: Arm, report: Report) -> str:
    """The paired ratio of the optimized arm, 1 for its baseline; the other arms were not paired."""
    if report.speedup is None:
        return _NONE
    if arm.name == report.speedup.baseline:
        return "1.00"
    if arm.name == report.speedup.optimized:
        return _interval(Interval(report.speedup.estimate, report.speedup.ci95), 2)
    return _NONE


def _interval(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return _NONE
    low, high = interval.ci95
    return f"{interval.estimate:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


def _title(report: Report) -> str:
    env = report.environment
    return escape(f"{report.workload.name} on {env.cpu_model}, {env.threads} threads")


def _caption(report: Report) -> str | None:
    lines = []
    if report.speedup is not None:
        low, high = report.speedup.noise_floor
        lines.append(f"A/A noise floor [{low:.3f}, {high:.3f}] over {report.speedup.pairs} pairs")
    if report.cost_rate is not None:
        rate = report.cost_rate
        lines.append(f"{rate.rate_usd_per_h:g} USD/h, {rate.name}")
    lines += [line for arm in report.arms.values() if (line := _tokens(arm))]
    if not report.complete:
        lines.append(f"INCOMPLETE: {report.incomplete_reason}")
    return escape("\n".join(lines)) or None
