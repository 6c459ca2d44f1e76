"""Each build of the CPU kernels passes the ops' tests; threads, OpenMP and the GIL."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from support.processes import script

import fastmodel as fm
from fastmodel import env

TESTS = Path(__file__).parent
CAPABILITIES = ("plain", "avx2", "avx512")

if env.native_missing():
    pytest.skip(env.native_missing(), allow_module_level=True)


def python(code: str, capability: str | None = None) -> subprocess.CompletedProcess:
    environment = dict(os.environ)
    environment.pop("FASTMODEL_CPU_CAPABILITY", None)
    if capability is not None:
        environment["FASTMODEL_CPU_CAPABILITY"] = capability
    return subprocess.run(script(code), env=environment, capture_output=True, text=True)


def best_capability() -> str:
    return python("from fastmodel import env; print(env.cpu_capability())").stdout.strip()


def skip_unless_supported(capability: str) -> None:
    best = best_capability()
    if CAPABILITIES.index(capability) > CAPABILITIES.index(best):
        pytest.skip(f"this machine has {best}, not {capability}")


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_a_capability_can_be_forced(capability):
    skip_unless_supported(capability)
    ran = python("from fastmodel import env; print(env.cpu_capability())", capability)
    assert ran.stdout.strip() == capability, ran.stderr


# The best one runs in this process; the others in one of their own.
@pytest.mark.parametrize("capability", CAPABILITIES[:2])
def test_the_ops_pass_with_each_capability(capability):
    skip_unless_supported(capability)
    if env.cpu_capability() == capability:
        pytest.skip(f"the suite itself runs with {capability}")
    # Of the ops' tests those that run kernels; graphs and errors do not depend on the capability.
    selection = (
        "not compile and not registration and not derivatives and not bad_input and not test_large"
    )
    ran = subprocess.run(
        script(
            "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
            *(str(TESTS / "ops"), "-q", "-k", selection),
            *("--rootdir", str(TESTS.parent), "-p", "no:cacheprovider"),
        ),
        env={**os.environ, "FASTMODEL_CPU_CAPABILITY": capability},
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout


def test_an_unknown_capability_is_one_clear_error():
    for value in ("sse", "AVX2", "avx2 "):
        code = "import fastmodel as fm, torch; from fastmodel import env; env.native()"
        ran = python(code, value)
        assert ran.returncode == 1
        assert ran.stderr.strip().splitlines()[-1] == (
            "fastmodel.errors.BuildError: "
            f"FASTMODEL_CPU_CAPABILITY={value} is unknown; set plain, avx2 or avx512, or unset it"
        )


def test_an_empty_capability_is_none():
    ran = python("from fastmodel import env; print(env.cpu_capability())", "")
    assert ran.stdout.strip() == best_capability()


def test_a_request_for_cpu_says_why_it_cannot_be_served():
    code = (
        "import fastmodel as fm, torch\n"
        "with fm.use_backend('cpu'): fm.functional.linear_relu(torch.ones(1, 1), torch.ones(1, 1))"
    )
    ran = python(code, "sse")
    assert ran.returncode == 1
    assert "BackendError: linear_relu" in ran.stderr and "sse is unknown" in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
def test_one_openmp_runtime_is_mapped():
    code = """
import fastmodel as fm, torch
fm.functional.linear_relu(torch.ones(64, 64), torch.ones(64, 64))
with open("/proc/self/maps") as maps:
    print(*sorted({line.split()[-1] for line in maps if "omp" in line.rsplit("/", 1)[-1]}))
"""
    mapped = python(code).stdout.split()
    runtimes = [path for path in mapped if "libgomp" in path or "libomp" in path or "iomp" in path]
    assert len(runtimes) == 1, mapped


def threads_of(count: int) -> int:
    """How many OS threads a process has after a kernel of ours ran first with this many."""
    code = f"""
import os, torch
import fastmodel as fm
torch.set_num_threads({count})
x = torch.empty(512, 512)  # not filled: PyTorch would start the threads itself
before = len(os.listdir("/proc/self/task"))
with fm.use_backend("cpu"):
    fm.functional.linear_relu(x, x)
print(len(os.listdir("/proc/self/task")) - before)
"""
    return int(python(code).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/task")
@pytest.mark.parametrize("count", [1, 2, 4])
def test_set_num_threads_governs_our_kernels(count):
    assert threads_of(count) == count - 1


def test_the_gil_is_released():
    """Another Python thread gets on while a kernel runs."""
    switch = sys.getswitchinterval()
    x = torch.randn(512, 2048)
    weight = torch.randn(2048, 2048)
    is_running, times, ticks = True, [], []

    def kernels():
        nonlocal is_running
        with fm.use_backend("cpu"):
            for _ in range(5):
                begin = time.perf_counter()
                fm.functional.linear_relu(x, weight)
                times.append((begin, time.perf_counter()))
        is_running = False

    thread = threading.Thread(target=kernels)
    # With this interval only a release of the GIL lets another thread on.
    sys.setswitchinterval(100)
    try:
        thread.start()
        while is_running:
            ticks.append(time.perf_counter())
            time.sleep(0.0005)
    finally:
        sys.setswitchinterval(switch)
        thread.join()
    # The ticks that fell inside a kernel, away from its edges.
    inside = [t for t in ticks for begin, end in times if begin + 0.001 < t < end - 0.001]
    assert inside
