"""Run the suite over a build of the extension that watches itself: `python tests/sanitize.py address|thread`.

`address`: AddressSanitizer and UndefinedBehaviorSanitizer. PyTorch's allocations come from the preloaded
runtime too, so a kernel that reads or writes one element beside a tensor ends the process.
test_capabilities.py takes the ops' tests through every capability.

`thread`: ThreadSanitizer. It does not understand libgomp, so `parallel_for` starts plain threads in this
build, one a share; which share does what is the same.

The build and its copy of the package lie in build/sanitize-<kind>; the installed one is not touched. What
follows the kind goes to pytest. test_planted.py shows that the sanitizers are awake. GCC only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Sanitizer:
    """How the suite runs under one of them."""

    preload: Sequence[str]
    environment: Mapping[str, str]
    tests: Sequence[str]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Tests that cannot run there, and why."""


SANITIZERS = {
    "address": Sanitizer(
        # libstdc++ goes along: the interpreter does not link it, and exceptions are intercepted at start.
        preload=("libasan.so", "libubsan.so", "libstdc++.so"),
        environment={
            # The interpreter and PyTorch leave memory to the end of the process. The stack is left as it
            # is: GCC 12 aligns vectors of 64 bytes in the fake one to 32.
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        },
        tests=(".",),
        left_out={
            "tests/harness/test_report_in_browser.py": "the browser does not start under the runtime"
        },
    ),
    "thread": Sanitizer(
        preload=("libtsan.so", "libstdc++.so"),
        environment={
            "TSAN_OPTIONS": "halt_on_error=1:ignore_noninstrumented_modules=1",
            "OMP_NUM_THREADS": "3",
        },
        tests=("test_planted.py", "ops"),
        left_out={"tests/ops/test_large.py": "shadow memory of four times its gigabytes"},
    ),
}


def build(kind: str) -> Path:
    """Build the extension and return the folder that holds the package with it."""
    folder = ROOT / "build" / f"sanitize-{kind}"
    pybind11 = _output(sys.executable, "-m", "pybind11", "--cmakedir")
    scripts = sysconfig.get_path("scripts")  # cmake and ninja
    path = os.pathsep.join([scripts, os.environ.get("PATH", os.defpath)])
    cmake = str(Path(scripts, "cmake"))
    subprocess.run(
        [
            *(cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"),
            *("-DCMAKE_BUILD_TYPE=Release", f"-DFASTMODEL_SANITIZE={kind}", "-DFASTMODEL_CUDA=OFF"),
            *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11}"),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PATH": path},
    )
    subprocess.run([cmake, "--build", str(folder)], check=True)
    site = folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "fastmodel", site / "fastmodel", ignore=ignored)
    (extension,) = folder.glob("_C*.so")
    shutil.copy2(extension, site / "fastmodel")
    return site


def environment(kind: str, site: Path) -> dict[str, str]:
    """That of a process which imports the sanitized package."""
    sanitizer = SANITIZERS[kind]
    compiler = os.environ.get("CXX", "c++")
    libraries = [_output(compiler, f"-print-file-name={name}") for name in sanitizer.preload]
    return {
        **os.environ,
        **sanitizer.environment,
        "PYTHONPATH": str(site),
        "LD_PRELOAD": ":".join(libraries),
    }


def main(kind: str, *arguments: str) -> int:
    """Build, run, and return pytest's exit code."""
    sanitizer = SANITIZERS[kind]
    site = build(kind)
    chosen = arguments or tuple(sanitizer.tests)
    for test, reason in sanitizer.left_out.items():
        print(f"left out: {test}: {reason}")
    deselected = [f"--deselect={test}" for test in sanitizer.left_out]
    # Reports are written past sys.stderr, and a signal is the sanitizer's to explain.
    options = ["--capture=sys", "-p", "no:faulthandler", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *deselected, *chosen]
    return subprocess.run(command, cwd=ROOT / "tests", env=environment(kind, site)).returncode


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
