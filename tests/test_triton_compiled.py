"""Every Triton kernel compiles for GPUs of NVIDIA and AMD, within its budget, and spills nothing."""

import importlib
import os
from pathlib import Path

import pytest
import triton
from support.triton_compile import GFX942, SM_80, SM_90, compiled
from support.triton_kernels import KERNELS

import fastmodel
from fastmodel.ops.conv_relu.triton_kernel import CONFIGS, _tuned, suitable

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("with TRITON_INTERPRET=1 nothing is compiled", allow_module_level=True)

# Each dtype on the GPU that most will have, and one of them on the others.
RUNS = [
    pytest.param(kernel, target, dtype, id=f"{kernel}-{target.arch}-{dtype}-{i}")
    for i, kernel in enumerate(KERNELS)
    for target in (SM_80, SM_90, GFX942)
    for dtype in (kernel.dtypes if target is SM_90 else kernel.dtypes[:1])
]


@pytest.mark.parametrize(("kernel", "target", "dtype"), RUNS)
def test_compiles_within_its_budget(kernel, target, dtype):
    found = compiled(kernel, target, dtype)
    assert found.spilled == 0, found
    if target is not GFX942:
        assert found.registers <= kernel.registers, found
        assert found.shared_bytes <= kernel.shared_bytes, found
        assert found.wide >= kernel.wide, found


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_compiles_for_sizes_of_one(kernel):
    assert compiled(kernel.of_ones(), SM_90, kernel.dtypes[0]).spilled == 0


def modules():
    ops = Path(fastmodel.__file__).parent / "ops"
    return [
        *(f"fastmodel.ops.{path.stem}" for path in ops.glob("triton_*.py")),
        *(
            f"fastmodel.ops.{path.parent.name}.triton_kernel"
            for path in ops.glob("*/triton_kernel.py")
        ),
    ]


@pytest.mark.parametrize("module", modules())
def test_every_kernel_has_a_budget(module):
    """Kernels, which alone are launched, are named so; what they call is compiled with them."""
    found = {
        name
        for name, value in vars(importlib.import_module(module)).items()
        if isinstance(value, triton.JITFunction) and value.fn.__module__ == module
    }
    listed = {kernel.name for kernel in KERNELS if kernel.function.fn.__module__ == module}
    assert {name for name in found if name.endswith("_kernel")} == listed


def test_tuning_is_over_configs_that_suit():
    def sizes(*problem):
        found = suitable(list(CONFIGS), *problem)
        return [tuple(config.kwargs.values()) for config in found]

    assert sizes(100, 20, 16, 2) == [(64, 32, 32), (128, 32, 32)]
    assert (128, 128, 64) in sizes(10**6, 256, 256, 2)
    assert sizes(10**6, 256, 256, 4).count((128, 128, 64)) == 0  # 192 KiB of float32
    assert sizes(1, 1, 1, 2)
    assert _tuned().configs == list(CONFIGS)
