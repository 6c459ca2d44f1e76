"""The sanitizers are awake: each fault planted in a sanitized build ends the process with its name."""

import subprocess

import pytest
from support.processes import script

from fastmodel import env

if env.native_missing():
    pytest.skip(env.native_missing(), allow_module_level=True)
if not hasattr(env.native(), "planted_cpu"):
    pytest.skip(
        "the extension is not a sanitized build; run make sanitize", allow_module_level=True
    )

CODE = """
import sys
import torch
from fastmodel import env

native, x = env.native(), torch.ones(40)
native.planted_cpu(getattr(native.Fault, sys.argv[1]), x.data_ptr(), 40, 3)
print("survived")
"""
KIND = env.native().SANITIZER
REPORTS = {
    "address": {
        "read": "READ of size",
        "masked_read": "READ of size",
        "write": "WRITE of size",
        "masked_write": "WRITE of size",
        "scratch": "WRITE of size",
        "overflow": "signed integer overflow",
    },
    "thread": {"race": "ThreadSanitizer: data race"},
}


def run(fault: str, monkeypatch, capability: str) -> subprocess.CompletedProcess:
    monkeypatch.setenv("FASTMODEL_CPU_CAPABILITY", capability)
    return subprocess.run(script(CODE, fault), capture_output=True, text=True)


@pytest.mark.parametrize("fault", REPORTS[KIND])
@pytest.mark.parametrize("capability", ["plain", "avx2", "avx512"])
def test_a_planted_fault_is_caught(fault, capability, monkeypatch):
    ran = run(fault, monkeypatch, capability)
    if "is not supported by this machine" in ran.stderr:
        pytest.skip(f"this machine has no {capability}")
    assert ran.returncode != 0 and "survived" not in ran.stdout
    assert REPORTS[KIND][fault] in ran.stderr


def test_no_fault_is_no_report(monkeypatch):
    ran = run("none", monkeypatch, env.cpu_capability())
    assert ran.returncode == 0 and "survived" in ran.stdout, ran.stderr
