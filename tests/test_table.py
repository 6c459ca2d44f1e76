"""The kernel table: every row can be resolved, and every op ends in its definition."""

import inspect
from pathlib import Path

import pytest
import torch

import fastmodel as fm
from fastmodel.ops import table

OPS = sorted({row.op for row in table.ROWS})
PASSES = sorted({(row.op, row.pass_) for row in table.ROWS})
OPS_FOLDER = Path(table.__file__).parent


def row_id(row):
    return f"{row.op}-{row.pass_}-{row.backend}"


def parameters(function) -> int:
    """How many positional arguments it needs at least."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in kinds for p in inspect.signature(function).parameters.values())


@pytest.mark.parametrize("row", table.ROWS, ids=row_id)
def test_row_resolves(row):
    kernel = row.resolve()
    assert callable(kernel) and kernel.__doc__, f"{row.kernel} has no docstring"
    assert row.backend in table.BACKENDS
    assert all(isinstance(getattr(torch, name), torch.dtype) for name in row.dtypes)
    for device in row.devices:
        torch.device(device)


@pytest.mark.parametrize("row", [r for r in table.ROWS if r.condition or r.worth], ids=row_id)
def test_checks_resolve(row):
    checks = row.resolve_checks()
    assert len(checks) == sum(name is not None for name in (row.condition, row.worth))
    assert len(row.resolve_checks(asks_worth=False)) == (row.condition is not None)
    for check in checks:
        assert callable(check) and check.__doc__, f"{check} has no docstring"
        variadic = any(
            p.kind is p.VAR_POSITIONAL for p in inspect.signature(check).parameters.values()
        )
        assert variadic or parameters(check) == parameters(row.resolve())


@pytest.mark.parametrize(("op", "pass_"), PASSES)
def test_the_last_row_takes_everything(op, pass_):
    last = table.rows_of(op, pass_)[-1]
    assert last.backend in ("reference", "library")
    assert last.available and not last.devices and not last.dtypes and last.condition is None


@pytest.mark.parametrize(("op", "pass_"), PASSES)
def test_there_is_a_reference(op, pass_):
    rows = table.rows_of(op, pass_)
    assert "reference" in [row.backend for row in rows]
    assert len({(row.backend, row.kernel) for row in rows}) == len(rows)


@pytest.mark.parametrize(("op", "pass_"), PASSES)
def test_rows_of_a_pass_take_the_same_arguments(op, pass_):
    counts = {row.kernel: parameters(row.resolve()) for row in table.rows_of(op, pass_)}
    assert len(set(counts.values())) == 1, counts


def test_every_folder_is_an_op_of_the_table():
    folders = {p.parent.name for p in OPS_FOLDER.glob("*/__init__.py")}
    assert folders == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_an_op_has_its_files(op):
    for name in ("reference", "cases", "module"):
        assert (OPS_FOLDER / op / f"{name}.py").is_file(), name
    assert (Path(__file__).parent / "ops" / f"test_{op}.py").is_file()


@pytest.mark.parametrize("op", OPS)
def test_cases_are_named_once_and_have_a_bench(op):
    module = __import__(f"fastmodel.ops.{op}.cases", fromlist=["CASES"])
    names = [case.name for case in module.CASES]
    assert len(set(names)) == len(names)
    assert any(case.is_bench for case in module.CASES)


def test_kernels_lists_the_whole_table():
    rows = fm.kernels()
    assert tuple(rows) == table.ROWS
    for row in rows:
        assert row.available == (row.reason is None)


def test_a_row_says_what_it_does_not_take():
    row = table.Row("op", "forward", "cpu", "m:f", ("cpu",), ("float32", "bfloat16"))
    assert row.takes("cpu", torch.float32) is None
    assert row.takes("cuda", torch.float32) == "takes cpu tensors, not cuda"
    assert row.takes("cpu", torch.float64) == "takes float32 or bfloat16, not float64"


def test_a_simulated_row_takes_cpu_tensors_where_asked_for_by_name(monkeypatch):
    row = table.Row("op", "forward", "triton", "triton_kernel:forward", ("cuda",))
    assert row.takes("cpu", torch.float32, by_name=True) == "takes cuda tensors, not cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert row.takes("cpu", torch.float32, by_name=True) is None
    assert row.takes("cpu", torch.float32) == "takes cuda tensors, not cpu"
    assert row.takes("xpu", torch.float32, by_name=True) == "takes cuda tensors, not xpu"
