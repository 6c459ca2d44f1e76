"""use_backend, FASTMODEL_BACKEND and the choice that dispatch makes."""

import os
import subprocess
import threading

import pytest
import torch
from support.processes import script

import fastmodel as fm
from fastmodel.errors import BackendError, InputError
from fastmodel.ops import dispatch, table

HAS_NATIVE = "cpu" in [row.backend for row in table.ROWS if row.available]
needs_native = pytest.mark.skipif(not HAS_NATIVE, reason="the native extension is not built")

X, WEIGHT = torch.randn(3, 4), torch.randn(2, 4)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("FASTMODEL_BACKEND", raising=False)
    dispatch._from_environment.cache_clear()
    yield
    dispatch._from_environment.cache_clear()


@pytest.fixture
def served(monkeypatch):
    """Kernels of an op named "probe": one served by name alone, one for float32 of two elements or more, and
    the definition; who served."""
    calls = []
    rows = (
        table.Row("probe", "forward", "library", "m:library", only_by_name=True),
        table.Row("probe", "forward", "cpu", "m:cpu", ("cpu",), ("float32",), "m:condition"),
        table.Row("probe", "forward", "reference", "m:reference"),
    )
    functions = {
        "m:cpu": lambda x: calls.append("cpu"),
        "m:library": lambda x: calls.append("library"),
        "m:reference": lambda x: calls.append("reference"),
        "m:condition": lambda x: None if x.numel() >= 2 else "it takes two elements or more",
    }
    monkeypatch.setattr(table, "ROWS", rows)
    monkeypatch.setattr(table, "_load", lambda op, target: functions[target])
    monkeypatch.setattr(table.Row, "reason", None)
    table.rows_of.cache_clear()
    dispatch._candidates.cache_clear()
    yield calls
    monkeypatch.undo()
    table.rows_of.cache_clear()
    dispatch._candidates.cache_clear()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.ones(2), "cpu"),
        (torch.ones(1), "reference"),
        (torch.ones(2, dtype=torch.float64), "reference"),
        (torch.ones(2, device="meta"), "reference"),
    ],
)
def test_automatic_choice_falls_back(served, x, expected):
    dispatch.run("probe", "forward", x)
    assert served == [expected]


@pytest.mark.parametrize("x", [torch.ones(1), torch.ones(2, dtype=torch.float64)], ids=str)
def test_a_request_is_never_replaced(served, x):
    with fm.use_backend("cpu"), pytest.raises(BackendError) as raised:
        dispatch.run("probe", "forward", x)
    assert served == []
    assert str(raised.value).startswith("probe: backend 'cpu'")
    assert "use another backend or automatic choice" in str(raised.value)


@pytest.mark.parametrize("backend", ["reference", "library"])
def test_a_request_is_served(served, backend):
    with fm.use_backend(backend):
        dispatch.run("probe", "forward", torch.ones(2))
    assert served == [backend]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("op", fm.functional.__all__)
def test_cuda_without_a_device_raises(op, backend):
    assert dispatch.requested() is None
    with fm.use_backend(backend), pytest.raises(BackendError, match=op):
        dispatch.run(op, "forward", X, WEIGHT, None)


def test_an_op_raises_what_dispatch_raises():
    with fm.use_backend("triton"), pytest.raises(BackendError, match=r"^linear_relu: backend"):
        fm.functional.linear_relu(X, WEIGHT)


@needs_native
def test_backward_obeys_the_backend_in_force_where_it_runs():
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    out = fm.functional.linear_relu(x, WEIGHT.double())
    with fm.use_backend("cpu"), pytest.raises(BackendError, match="backward"):
        out.sum().backward()


def test_nesting_and_none():
    assert dispatch.requested() is None
    with fm.use_backend("reference"):
        with fm.use_backend("cpu"):
            assert dispatch.requested() == "cpu"
        assert dispatch.requested() == "reference"
        with fm.use_backend(None):
            assert dispatch.requested() is None
        assert dispatch.requested() == "reference"
    assert dispatch.requested() is None


def test_an_exception_restores_the_backend():
    with pytest.raises(ZeroDivisionError), fm.use_backend("reference"):
        raise ZeroDivisionError
    assert dispatch.requested() is None


def test_threads_do_not_see_each_others_backend():
    inside, seen = threading.Barrier(2, timeout=30), {}

    def work(name):
        with fm.use_backend(name):
            inside.wait()
            seen[name] = dispatch.requested()
            inside.wait()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("cpu", "reference")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"cpu": "cpu", "reference": "reference"}
    assert dispatch.requested() is None


@pytest.mark.parametrize("name", ["gpu", "CPU", "", 3])
def test_unknown_name(name):
    with pytest.raises(InputError) as raised, fm.use_backend(name):
        pass
    assert str(raised.value).startswith(f"use_backend: unknown backend {name!r}; choose one of cpu")


def test_environment_variable(monkeypatch):
    monkeypatch.setenv("FASTMODEL_BACKEND", "reference")
    assert dispatch.requested() == "reference"
    with fm.use_backend("cpu"):
        assert dispatch.requested() == "cpu"


def test_none_returns_to_automatic_choice_whatever_the_environment_says(monkeypatch):
    monkeypatch.setenv("FASTMODEL_BACKEND", "reference")
    with fm.use_backend(None):
        assert dispatch.requested() is None
    assert dispatch.requested() == "reference"


def test_empty_environment_variable_is_none(monkeypatch):
    monkeypatch.setenv("FASTMODEL_BACKEND", "")
    assert dispatch.requested() is None


def test_unknown_name_in_the_environment():
    code = "import torch, fastmodel as fm; fm.functional.linear_relu(torch.ones(1, 1), torch.ones(1, 1))"
    ran = subprocess.run(
        script(code),
        env={**os.environ, "FASTMODEL_BACKEND": "gpu"},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    assert "FASTMODEL_BACKEND: unknown backend 'gpu'; choose one of cpu, cuda" in last
