"""What the compiled CUDA kernels use, read from fastmodel._cuda: `python tests/support/cuda_resources.py`.

cuobjdump, which Triton's package brings, tells what ptxas has assigned.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"

SYSTEM_BYTES = {"sm_90": 1024}
"""Shared memory that CUDA keeps for itself in each block, where cuobjdump counts it in."""


@dataclass(frozen=True, order=True)
class Resources:
    """One instance of one kernel for one architecture."""

    kernel: str
    arch: str
    registers: int
    shared_bytes: int
    """Static; what a launch asks for comes on top."""
    local_bytes: int
    """Spilled registers, and arrays that did not go into any."""
    symbol: str


def kernel_name(symbol: str) -> str:
    """The function's own name in a mangled one: `_ZN9fastmodel12_GLOBAL__N_13sumIfEEvPT_` is sum."""
    rest, name = symbol.removeprefix("_Z").removeprefix("N"), ""
    while match := re.match(r"\d+", rest):
        length = int(match[0])
        name = rest[match.end() :][:length]
        rest = rest[match.end() + length :]
    return name


def parse(dump: str) -> list[Resources]:
    """The answer of `cuobjdump -res-usage`."""
    found, arch, symbol = [], "", ""
    for line in dump.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            arch = match[1]
        elif match := re.match(r"\s*Function (\w+):", line):
            symbol = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            name = kernel_name(symbol)
            own = max(0, shared - SYSTEM_BYTES.get(arch, 0))
            found.append(Resources(name, arch, registers, own, stack + local, symbol))
    return sorted(found)


def cuobjdump() -> str | None:
    """The tool, from the CUDA toolkit or Triton's package."""
    spec = importlib.util.find_spec("triton")
    inside = Path(spec.origin).parent / "backends/nvidia/bin" if spec and spec.origin else None
    return shutil.which("cuobjdump") or (inside and shutil.which("cuobjdump", path=inside))


def read(extension: str) -> list[Resources]:
    """What the kernels in a built extension use."""
    tool = cuobjdump()
    assert tool is not None
    answer = subprocess.run(
        [tool, "-res-usage", extension], capture_output=True, text=True, check=True
    )
    return parse(answer.stdout)


def kernels_in_sources() -> list[tuple[str, str]]:
    """(folder, kernel) of every `__global__` function in csrc/."""
    bounds = r"(?:__launch_bounds__\([^)]*\)\s+)?"
    pattern = re.compile(rf"__global__\s+{bounds}void\s+{bounds}(\w+)\s*\(")
    return sorted(
        (path.parent.name, name)
        for path in (*CSRC.rglob("*_cuda.cu"), *CSRC.rglob("*.cuh"))
        for name in pattern.findall(path.read_text())
    )


if __name__ == "__main__":
    from fastmodel import env

    if "--json" in sys.argv:
        print(json.dumps([asdict(each) for each in read(env.cuda().__file__)], indent=1))
    else:
        print(f"{'kernel':40} {'arch':6} {'registers':>9} {'shared_bytes':>12} {'local_bytes':>11}")
        for each in read(env.cuda().__file__):
            sizes = f"{each.registers:9} {each.shared_bytes:12} {each.local_bytes:11}"
            print(f"{each.kernel:40} {each.arch:6} {sizes}")
