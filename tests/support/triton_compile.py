"""Triton kernels compiled ahead of time, for GPUs that need not be there, and what they take of each."""

from __future__ import annotations

import importlib
import re
import subprocess
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SM_80, SM_90 = GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32)
GFX942 = GPUTarget("hip", "gfx942", 64)


@dataclass(frozen=True)
class Kernel:
    """A kernel as its host wrapper launches it, and the most it may take of a GPU."""

    module: str
    """Below fastmodel.ops, without the `triton_kernel` of an op's folder: "adam", or "triton_host"."""
    name: str
    types: str
    """Of the arguments that are no constants, in order: *T for a pointer to elements of the dtype that it is
    compiled for, *fp32, i32, i64, fp32 and so on. Pointers are aligned to 16 bytes."""
    constants: dict[str, Any]
    registers: int
    """Of a thread, on any NVIDIA GPU and in any dtype."""
    shared_bytes: int
    """Of a block, likewise."""
    wide: int = 0
    """16-byte accesses of global memory that there are at least: what moves memory moves it so."""
    warps: int = 4
    stages: int = 3
    dtypes: tuple[str, ...] = ("bf16", "fp32")
    divisible: tuple[str, ...] = field(default=())
    """Integers that are divisible by 16, as sizes and strides are in large models."""

    def __str__(self) -> str:
        return f"{self.module}-{self.name}"

    def of_ones(self) -> Kernel:
        """The kernel for integers that are all 1, which Triton takes for constants; but for random seeds."""
        names = [name for name in self.function.arg_names if name not in self.constants]
        kinds = dict(zip(names, self.types.split(), strict=True))
        ones = {name for name, kind in kinds.items() if kind in ("i32", "i64") and name != "seed"}
        return replace(
            self,
            types=" ".join(kind for name, kind in kinds.items() if name not in ones),
            constants={**self.constants, **dict.fromkeys(ones, 1)},
            divisible=(),
        )

    @property
    def function(self) -> Any:
        """The decorated function."""
        if self.module.startswith("triton_"):
            module = importlib.import_module(f"fastmodel.ops.{self.module}")
        else:
            module = importlib.import_module(f"fastmodel.ops.{self.module}.triton_kernel")
        return getattr(module, self.name)


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes."""

    registers: int
    shared_bytes: int
    spilled: int
    """Registers or bytes that went to memory."""
    wide: int
    """16-byte accesses of global memory; -1 where they are not counted."""


def compiled(kernel: Kernel, target: GPUTarget, dtype: str) -> Resources:
    """Compile to machine code."""
    function = kernel.function
    names = [name for name in function.arg_names if name not in kernel.constants]
    types = [kind.replace("*T", f"*{dtype}") for kind in kernel.types.split()]
    signature = dict(zip(names, types, strict=True))
    constants = {
        (function.arg_names.index(name),): value for name, value in kernel.constants.items()
    }
    is_aligned = [
        name in kernel.divisible or signature.get(name, "").startswith("*")
        for name in function.arg_names
    ]
    source = ASTSource(
        function,
        {name: signature.get(name, "constexpr") for name in function.arg_names},
        constants,
        {(i,): [["tt.divisibility", 16]] for i, is_so in enumerate(is_aligned) if is_so},
    )
    options = {
        "num_warps": kernel.warps,
        "num_stages": kernel.stages,
        "enable_fp_fusion": True,
    }
    program = triton.compile(source, target=target, options=options)
    if target.backend == "cuda":
        wide = re.findall(r"(?:ld|st)\.global\S*\.v4\.b32|cp\.async\.cg", program.asm["ptx"])
        return _of_cubin(program.asm["cubin"], program.metadata.shared, len(wide))
    return _of_amdgcn(program.asm["amdgcn"], program.metadata.shared)


def _of_cubin(cubin: bytes, shared_bytes: int, wide: int) -> Resources:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return Resources(found["REG"], shared_bytes, found["STACK"] + found["LOCAL"], wide)


def _of_amdgcn(text: str, shared_bytes: int) -> Resources:
    found = {name: int(value) for name, value in re.findall(r"\.([a-z_]+):\s+(\d+)", text)}
    # Scalar registers spill into vector registers, not into memory.
    return Resources(found["vgpr_count"], shared_bytes, found["vgpr_spill_count"], -1)
