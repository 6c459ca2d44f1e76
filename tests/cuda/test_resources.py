"""Registers, shared memory and spills of the compiled kernels, against csrc/cuda_budgets.toml."""

import importlib.util
import sys

import pytest
from support import cuda_resources

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUDGETS = tomllib.loads((cuda_resources.CSRC / "cuda_budgets.toml").read_text())

DUMP = """
Fatbin elf code:
================
arch = sm_80
Resource usage:
 Common:
  GLOBAL:0
 Function _ZN9fastmodel43_GLOBAL__N__2d0b3f3e_13_probe_cuda_cu_1234512round_kernelINS_4HalfEEEvPKfPf:
  REG:18 STACK:8 SHARED:64 LOCAL:4 CONSTANT[0]:368 TEXTURE:0 SURFACE:0 SAMPLER:0
"""


def test_every_kernel_has_a_budget():
    """Names are unique, so that a kernel is known by its own."""
    found = cuda_resources.kernels_in_sources()
    assert found == sorted((op, kernel) for op, rows in BUDGETS.items() for kernel in rows)
    names = [kernel for _, kernel in found]
    assert len(set(names)) == len(names)


def test_the_reading_of_a_dump():
    (row,) = cuda_resources.parse(DUMP)
    assert (row.kernel, row.arch) == ("round_kernel", "sm_80")
    assert (row.registers, row.shared_bytes, row.local_bytes) == (18, 64, 12)


def test_no_kernel_spills_or_exceeds_its_budget():
    built = importlib.util.find_spec("fastmodel._cuda")
    if built is None:
        pytest.skip("fastmodel._cuda is not built")
    if cuda_resources.cuobjdump() is None:
        pytest.skip("no cuobjdump: neither the CUDA toolkit's nor Triton's")
    found = cuda_resources.read(built.origin)
    budgets = {kernel: row for rows in BUDGETS.values() for kernel, row in rows.items()}
    for row in found:
        assert row.local_bytes == 0, f"{row.kernel} spills on {row.arch}: {row.symbol}"
        assert row.registers <= budgets[row.kernel]["registers"], row
        assert row.shared_bytes <= budgets[row.kernel]["shared_bytes"], row
    for arch in ("sm_80", "sm_90"):
        assert {row.kernel for row in found if row.arch == arch} == budgets.keys()
