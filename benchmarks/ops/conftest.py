"""Benches of the ops: `bench_<op>.py` runs for each pass of each bench case of `fastmodel/ops/<op>/cases.py`.

pytest-benchmark's own table times fastmodel alone; the comparison is made by `race`, in interleaved windows,
and printed at the end.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
from pathlib import Path

import ceilings as ceilings_
import function_arms
import optimizer_arms
import pytest
import race
import results
import torch
from arms import AUTO

_ROWS = pytest.StashKey[list[results.Row]]()
_CEILINGS = pytest.StashKey[ceilings_.Ceilings]()
_PEDANTIC_ROUNDS = 5


def pytest_addoption(parser):
    group = parser.getgroup("fastmodel ops")
    group.addoption(
        "--results", metavar="FOLDER", type=Path, help="write <op>.json: rows and environment"
    )
    group.addoption(
        "--seconds", type=float, default=1.0, help="of interleaved timing for each case and pass"
    )
    group.addoption(
        "--compile",
        choices=("auto", "all", "none"),
        default="auto",
        help="torch.compile arms: auto has them but for long lists of parameters, which take minutes each",
    )


def pytest_configure(config):
    config.stash[_ROWS] = []
    # A kernel that fails its check is not timed; that error is enough.
    config.addinivalue_line("filterwarnings", "ignore:Benchmark fixture was not used")
    # torch.compile's own use of what PyTorch has deprecated.
    config.addinivalue_line("filterwarnings", r"ignore::DeprecationWarning:torch\..*")


def pytest_generate_tests(metafunc):
    """Every bench case and pass of the op that the file is named after."""
    op = metafunc.module.__name__.rpartition("bench_")[2]
    cases = importlib.import_module(f"fastmodel.ops.{op}.cases").CASES
    is_function = op in function_arms.FUNCTIONS
    passes = (
        (function_arms.FORWARD, function_arms.TRAINING) if is_function else (optimizer_arms.STEP,)
    )
    chosen = [(op, case, pass_) for case in cases if case.is_bench for pass_ in passes]
    ids = [f"{case}-{pass_}" for _, case, pass_ in chosen]
    metafunc.parametrize("subject", chosen, ids=ids)


@pytest.fixture(scope="session")
def ceilings(pytestconfig):
    """Measured once, before the first bench."""
    pytestconfig.stash[_CEILINGS] = ceilings_.measure()
    return pytestconfig.stash[_CEILINGS]


@pytest.fixture
def run(subject, benchmark, ceilings, pytestconfig):
    """Run the bench of one case and pass."""
    op, case, pass_ = subject

    def bench() -> None:
        which = pytestconfig.getoption("compile")
        if op in function_arms.FUNCTIONS:
            contest = function_arms.contest(op, case, pass_, which != "none")
        else:
            contest = optimizer_arms.contest(op, case, which)
        budget_s = 0 if benchmark.disabled else pytestconfig.getoption("seconds")
        row = race.run(op, case.name, pass_, contest, ceilings, budget_s)
        auto = contest.arms[AUTO]
        benchmark.extra_info.update(dataclasses.asdict(row))
        with auto.scope():
            benchmark.pedantic(
                auto.call,
                rounds=_PEDANTIC_ROUNDS,
                iterations=max(1, row.calls_a_window // _PEDANTIC_ROUNDS),
                warmup_rounds=1,
            )
        pytestconfig.stash[_ROWS].append(row)

    yield bench
    torch.compiler.reset()
    gc.collect()  # the arms of a large case hold gigabytes


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash[_ROWS]
    if not rows:
        return
    limits = config.stash[_CEILINGS]
    terminalreporter.section("fastmodel against PyTorch's best arm")
    for line in results.table(rows):
        terminalreporter.write_line(line)
    terminalreporter.write_line("")
    terminalreporter.write_line(
        f"ceilings: {limits.gflop_per_s:.0f} GFLOP/s (multiply-adds {limits.fma_gflop_per_s or 0:.0f}, "
        f"convolution {limits.conv_gflop_per_s:.0f}, product {limits.gemm_gflop_per_s:.0f}), "
        f"{limits.gb_per_s:.0f} GB/s (copy {limits.copy_gb_per_s:.0f}, update {limits.update_gb_per_s:.0f})"
    )
    if config.getoption("results"):
        for path in results.write(config.getoption("results"), rows, limits):
            terminalreporter.write_line(f"wrote {path}")
