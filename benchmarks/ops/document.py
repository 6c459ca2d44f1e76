"""docs/kernels.md, the tables of the README and of docs/workloads.md, and the profiler's gains, from the
committed results: `make docs`.

Nothing here measures; a test keeps the committed documents the same as what this writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import gains
import results
from arms import AUTO

from fastmodel.harness.records import Environment, Report
from fastmodel.harness.store import load_report
from fastmodel.ops import table
from fastmodel.timing import geometric_mean

ROOT = Path(__file__).resolve().parents[2]
MACHINE = "epyc-2core"
RESULTS = ROOT / "benchmarks" / "results" / MACHINE
KERNELS, README, WORKLOADS = (
    ROOT / "docs" / "kernels.md",
    ROOT / "README.md",
    ROOT / "docs" / "workloads.md",
)
STEP = "step-"
"""What the file names of `make bench-steps` begin with."""
GPTS = ("gpt", "gpt-llama")
"""The workloads of `make bench-gpt`."""

_INTRODUCTION = """# The kernels against PyTorch

Written by `make docs` from [benchmarks/results/{machine}](../benchmarks/results/{machine}), which has the
raw samples; do not edit. `make results` measures all of it anew.

All arms of a case run in one process, in turns, after each has given the right numbers beside float64. The
ratio is the time of PyTorch's fastest arm over that of fastmodel as it dispatches by itself, with a 95 %
interval: above 1 fastmodel is faster. PyTorch's arms: eager in both layouts, `torch.compile` (compile time
not counted), and its plain, foreach and fused optimizers. Times are medians in ms, the best of PyTorch's in
bold. FLOPs are those of the dense formula, so work that a kernel skips counts; bytes are what the pass must
at least move.
"""


def kernels_document(directory: Path = RESULTS) -> str:
    """docs/kernels.md."""
    found = _ops(directory)
    lines = [
        _INTRODUCTION.format(machine=MACHINE),
        "## A training step",
        "",
        *_step_table(directory),
    ]
    lines += ["", "## In short", "", *_summary(found), ""]
    for result in found:
        lines += [
            f"## {result.rows[0].op}",
            "",
            _conditions(result),
            "",
            *_op_table(result.rows),
            "",
        ]
        lines += _left_out(result.rows)
    return "\n".join(lines).rstrip() + "\n"


def readme_document(readme: str, directory: Path = RESULTS) -> str:
    """`readme` with its marked tables written anew."""
    readme = _between(readme, "steps", _step_table(directory))
    readme = _between(readme, "gpt", _gpt_table(directory))
    return _between(readme, "ops", _summary(_ops(directory)))


def workloads_document(text: str, directory: Path = RESULTS) -> str:
    """`text` with its marked table written anew."""
    return _between(text, "gpt", _gpt_table(directory))


def _ops(directory: Path) -> list[results.Results]:
    """The results of every op of the kernel table that has some, by name."""
    paths = (directory / f"{op}.json" for op in sorted({row.op for row in table.ROWS}))
    return [results.load(path) for path in paths if path.is_file()]


def _between(text: str, name: str, lines: Iterable[str]) -> str:
    begin, end = f"<!-- {name}: make docs -->\n", f"<!-- {name} end -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    if not rest or not after:
        raise ValueError(f"no lines {begin.strip()} and {end} to write between")
    return before + begin + "\n".join(lines) + "\n" + end + after


def _step_table(directory: Path) -> Iterator[str]:
    """A row a report of `make bench-steps`, of every machine beside `directory`."""
    rates = ("PyTorch's best, samples/s", "fastmodel, samples/s")
    yield from _head("CPU, 2 cores", "batch", "instructions", *rates)
    reports = [load_report(path) for path in directory.parent.glob(f"*/{STEP}*.json")]

    def order(report: Report) -> tuple:
        where = report.environment
        return where.cpu_model, where.cpu_capability != "avx512", report.workload.batch_size

    for report in sorted(reports, key=order):
        yield _step_row(report)


def _step_row(report: Report) -> str:
    speedup = report.speedup
    assert speedup is not None  # a whole run has one
    rates = {name: arm.throughput_samples_per_s for name, arm in report.arms.items()}
    ours, theirs = rates[speedup.optimized], rates[speedup.baseline]
    assert ours is not None and theirs is not None
    low, high = speedup.ci95
    assert report.environment.threads == 2  # as the table's head has it
    return _row(
        report.environment.cpu_model or "unknown",
        str(report.workload.batch_size),
        report.environment.cpu_capability,
        f"{theirs.estimate:,.0f} ({speedup.baseline})",
        f"{ours.estimate:,.0f}",
        f"{speedup.estimate:.2f} [{low:.2f}, {high:.2f}]",
    )


def _gpt_table(directory: Path) -> Iterator[str]:
    """A row a report of `make bench-gpt`: PyTorch's best arm, then fastmodel."""
    names = ("tokens/s", "epoch, s", "peak memory, MB", "USD per million tokens", "bits per byte")
    yield from _head("workload", "PyTorch's best arm", *names)
    for report in (load_report(directory / "gpt" / f"{name}.json") for name in GPTS):
        yield _gpt_row(report)


def _gpt_row(report: Report) -> str:
    speedup = report.speedup
    assert speedup is not None  # a whole run has one
    arms = [report.arms[name] for name in (speedup.baseline, speedup.optimized)]

    def pair(values: Iterable[float | None], form: str, scale: float = 1.0) -> str:
        return " → ".join("-" if value is None else format(value * scale, form) for value in values)

    rates = (arm.throughput_tokens_per_s for arm in arms)
    trained = pair((arm.validation_bits_per_byte for arm in arms), ".3f").replace("→", "and")
    untrained = arms[0].untrained_bits_per_byte
    assert untrained is not None
    low, high = speedup.ci95
    return _row(
        report.workload.name,
        speedup.baseline,
        pair((None if rate is None else rate.estimate for rate in rates), ",.0f"),
        pair((arm.train_time_s for arm in arms), ".1f"),
        pair((arm.peak_memory_bytes for arm in arms), ",.0f", 1e-6),
        pair((arm.cost_usd_per_million_tokens for arm in arms), ".5f"),
        f"{untrained:.2f} before, then {trained}",
        f"{speedup.estimate:.2f} [{low:.2f}, {high:.2f}]",
    )


def _summary(found: Sequence[results.Results]) -> Iterator[str]:
    """A row a pass of an op."""
    yield from _head("op", "pass", "cases", "geometric mean", "lowest", "highest", ratio=False)
    for rows in (result.rows for result in found):
        for pass_ in dict.fromkeys(row.pass_ for row in rows):
            own = sorted(
                (row for row in rows if row.pass_ == pass_), key=lambda row: row.ratio.value
            )
            mean = geometric_mean([row.ratio.value for row in own])
            ends = (f"{row.ratio.value:.2f} ({row.case})" for row in (own[0], own[-1]))
            yield _row(own[0].op, pass_, str(len(own)), f"{mean:.2f}", *ends)


def _op_table(rows: Sequence[results.Row]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row.torch_arms))
    yield from _head("case", "pass", "fastmodel", *names, tail=("GFLOP/s", "GB/s"))
    for row in rows:
        ratio = row.ratio
        yield _row(
            row.case,
            row.pass_,
            f"{row.median_ms[AUTO]:.3g}",
            *(_time(row, name) for name in names),
            f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
            f"{row.gflop_per_s:,.1f} ({row.flop_share:.0%})",
            f"{row.gb_per_s:,.1f} ({row.byte_share:.0%})",
        )


def _time(row: results.Row, name: str) -> str:
    if name not in row.median_ms:
        return "-"
    time = f"{row.median_ms[name]:.3g}"
    return f"**{time}**" if name == row.best_torch else time


def _left_out(rows: Sequence[results.Row]) -> Iterator[str]:
    """Each reason once, with the cases that it holds for."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, reason in row.left_out.items():
            reasons.setdefault((name, reason), []).append(f"{row.case} {row.pass_}")
    for (name, reason), cases in reasons.items():
        yield f"No {name} arm for {', '.join(cases)}: {reason}.\n"


def _conditions(result: results.Results) -> str:
    limits = result.ceilings
    fma = "not measured" if limits.fma_gflop_per_s is None else f"{limits.fma_gflop_per_s:.0f}"
    return (
        f"{_machine(result.environment)}. Shares are of {limits.gflop_per_s:.0f} GFLOP/s (multiply-adds on "
        f"registers {fma}, oneDNN's convolution {limits.conv_gflop_per_s:.0f}, PyTorch's product "
        f"{limits.gemm_gflop_per_s:.0f}) and {limits.gb_per_s:.0f} GB/s (copy "
        f"{limits.copy_gb_per_s:.0f}, update in place {limits.update_gb_per_s:.0f})."
    )


def _machine(where: Environment) -> str:
    commit = "an unknown commit" if where.commit is None else f"commit {where.commit[:10]}"
    return (
        f"{where.cpu_model}, {where.threads} threads, {where.cpu_capability}, "
        f"PyTorch {where.torch_version}, {commit}"
    )


def _head(*names: str, tail: Sequence[str] = (), ratio: bool = True) -> Iterator[str]:
    names = (*names, *(["ratio [95 %]"] if ratio else []), *tail)
    yield _row(*names)
    yield "|" + "---|" * len(names)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    KERNELS.write_text(kernels_document(), encoding="utf-8")
    for path, written in ((README, readme_document), (WORKLOADS, workloads_document)):
        path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
    gains.GAINS.write_text(gains.gains_text(RESULTS), encoding="utf-8")
