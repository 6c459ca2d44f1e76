"""Imports run one way: a module imports from its own layer or from layers below it."""

from __future__ import annotations

import ast
import fnmatch
from pathlib import Path

import pytest

import fastmodel

ROOT = Path(fastmodel.__file__).parent

# From the lowest up. The first pattern that matches a module gives its layer, so that the
# particular files of an op stand before the op's face.
LAYERS = (
    ("fastmodel._C",),
    ("fastmodel.errors", "fastmodel.env", "fastmodel.progress"),
    ("fastmodel.timing", "fastmodel.timing.*"),
    # What kernels share, and the kernels: they know nothing of the table.
    (
        "fastmodel.ops",
        "fastmodel.ops.batch",
        "fastmodel.ops.checks",
        "fastmodel.ops.case",
        "fastmodel.ops.class_loss",
        "fastmodel.ops.conv",
        "fastmodel.ops.conv_case",
        "fastmodel.ops.conv_cuda",
        "fastmodel.ops.gated",
        "fastmodel.ops.gated_case",
        "fastmodel.ops.gpu_batch",
        "fastmodel.ops.grad_norm",
        "fastmodel.ops.linear_cuda",
        "fastmodel.ops.linear_layer",
        "fastmodel.ops.linear_case",
        "fastmodel.ops.native",
        "fastmodel.ops.norm",
        "fastmodel.ops.norm_case",
        "fastmodel.ops.norm_native",
        "fastmodel.ops.parameter_lists",
        "fastmodel.ops.rotary",
        "fastmodel.ops.rotary_case",
        "fastmodel.ops.stochastic_rounding",
        "fastmodel.ops.tensor_table",
        "fastmodel.ops.triton_*",
    ),
    (
        "fastmodel.ops.*.reference",
        "fastmodel.ops.*.library",
        "fastmodel.ops.*.cuda_kernel",
        "fastmodel.ops.*.native_kernel",
        "fastmodel.ops.*.cudnn",
        "fastmodel.ops.*.state",
        "fastmodel.ops.*.triton_kernel",
        "fastmodel.ops.*.cases",
    ),
    ("fastmodel.ops.table",),
    ("fastmodel.ops.dispatch",),
    (
        "fastmodel.ops.recompute",
        "fastmodel.ops.register",
        "fastmodel.ops.eager",
        "fastmodel.ops.gated_module",
        "fastmodel.ops.gated_op",
        "fastmodel.ops.linear_op",
        "fastmodel.ops.norm_op",
        "fastmodel.ops.optimizers",
        "fastmodel.ops.own_state",
        "fastmodel.ops.modules",
        "fastmodel.ops.rotary_module",
        "fastmodel.ops.rotary_op",
    ),
    ("fastmodel.ops.links", "fastmodel.ops.replay"),
    ("fastmodel.ops.chain",),
    ("fastmodel.ops.*.op",),
    ("fastmodel.ops.*.module",),
    ("fastmodel.ops.neighbours",),
    ("fastmodel.ops.sequential",),
    ("fastmodel.ops.*",),
    ("fastmodel.nn", "fastmodel.optim", "fastmodel.functional"),
    ("fastmodel.graphs",),
    ("fastmodel.capture",),
    ("fastmodel.optimize", "fastmodel.optimize.*"),
    ("fastmodel",),
    ("fastmodel.harness",),
    (
        "fastmodel.harness.records",
        "fastmodel.harness.telemetry_records",
        "fastmodel.harness.profile_records",
        "fastmodel.harness.roofline_records",
    ),
    (
        "fastmodel.harness.conditions",
        "fastmodel.harness.environment",
        "fastmodel.harness.telemetry",
        "fastmodel.harness.telemetry.*",
        "fastmodel.harness.workloads",
        "fastmodel.harness.workloads.*",
    ),
    ("fastmodel.harness.rewind",),
    (
        "fastmodel.harness.gate",
        "fastmodel.harness.isolated",
        "fastmodel.harness.measure",
        "fastmodel.harness.profile",
        "fastmodel.harness.profile.*",
        "fastmodel.harness.training",
    ),
    ("fastmodel.harness.cost", "fastmodel.harness.tokens"),
    ("fastmodel.harness.compare",),
    ("fastmodel.harness.journal",),
    (
        "fastmodel.harness.store",
        "fastmodel.harness.report",
        "fastmodel.harness.report.*",
        "fastmodel.harness.tables",
    ),
    ("fastmodel.harness.loggers", "fastmodel.harness.loggers.*"),
    ("fastmodel.harness.*",),
    ("fastmodel.commands", "fastmodel.commands.*"),
    ("fastmodel.cli",),
    ("fastmodel.__main__",),
)


def name_of(path: Path) -> str:
    parts = ("fastmodel", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}


def layer_of(module: str) -> int:
    for layer, patterns in enumerate(LAYERS):
        if any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns):
            return layer
    raise AssertionError(f"{module} has no layer; add it to LAYERS")


def imported(module: str, source: str, is_package: bool) -> set[str]:
    """The modules that the source imports, at the top or inside functions; not those for types alone."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".")
                parent = parent[: len(parent) - node.level + is_package]
                base = ".".join([*parent, base] if base else parent)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in MODULES or full == "fastmodel._C" else base)
    return found


def imports_of(module: str) -> set[str]:
    path = MODULES[module]
    return imported(module, path.read_text(), path.name == "__init__.py")


def op_of(module: str) -> str | None:
    """The op in whose folder the module lies."""
    parts = module.split(".")
    is_op = len(parts) > 2 and parts[1] == "ops" and (ROOT / "ops" / parts[2]).is_dir()
    return parts[2] if is_op else None


@pytest.mark.parametrize("module", MODULES)
def test_no_import_from_a_higher_layer(module):
    for other in imports_of(module):
        if other.startswith("fastmodel"):
            assert layer_of(other) <= layer_of(module), f"{module} imports {other} from above"


@pytest.mark.parametrize("module", [m for m in MODULES if op_of(m)])
def test_no_op_imports_another(module):
    for other in imports_of(module):
        assert op_of(other) in (None, op_of(module)), f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_tests_or_benchmarks(module):
    tops = {other.split(".")[0] for other in imports_of(module)}
    assert not tops & {"tests", "support", "benchmarks", "conftest", "pytest"}


def test_no_cycles():
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done or module not in MODULES:
            return
        for other in imports_of(module):
            visit(other, (*trail, module))
        done.add(module)

    for module in MODULES:
        visit(module, ())


def test_the_table_names_kernels_by_strings():
    assert imports_of("fastmodel.ops.table") <= {
        *("__future__", "functools", "importlib", "collections.abc", "dataclasses", "torch"),
        *("fastmodel", "fastmodel.env", "typing"),
    }


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import fastmodel.nn", {"fastmodel.nn"}),
        ("from fastmodel.ops import dispatch", {"fastmodel.ops.dispatch"}),
        ("from fastmodel.ops.dispatch import run", {"fastmodel.ops.dispatch"}),
        ("def f():\n    from . import op", {"fastmodel.ops.linear_relu.op"}),
        ("from ..table import rows_of", {"fastmodel.ops.table"}),
        ("if TYPE_CHECKING:\n    import fastmodel.cli", set()),
    ],
)
def test_the_reading_of_imports(source, expected):
    assert imported("fastmodel.ops.linear_relu.module", source, False) == expected
