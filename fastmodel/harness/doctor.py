"""`fastmodel doctor`: what this machine has, what is built, what is missing and how to get it."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pydantic
import torch

from fastmodel import env
from fastmodel.harness.environment import environment
from fastmodel.harness.records import Environment
from fastmodel.harness.telemetry import energy_sources
from fastmodel.harness.workloads.datasets import cache_directory, find_mnist


def diagnose() -> dict[str, object]:
    """Facts by name: those of a report's environment, then tools and data."""
    facts = pydantic.TypeAdapter(Environment).dump_python(environment(), mode="json")
    facts.pop("missing")
    facts["native extension"] = env.native_missing() or "built"
    forced = os.environ.get("FASTMODEL_CPU_CAPABILITY")
    facts["capability chosen by"] = f"FASTMODEL_CPU_CAPABILITY={forced}" if forced else "cpuid"
    facts["CUDA in PyTorch"] = torch.version.cuda or (
        "none: this PyTorch is built for the CPU; for a GPU install one from pytorch.org"
    )
    facts["nvcc"] = shutil.which("nvcc") or "not found: the CUDA kernels need the CUDA toolkit"
    facts["triton"] = (
        "installed"
        if importlib.util.find_spec("triton")
        else "not installed: pip install 'fastmodel[triton]'"
    )
    sources, reason = energy_sources("cuda" if torch.cuda.is_available() else "cpu")
    facts["energy"] = ", ".join(source.name for source in sources) or f"not readable: {reason}"
    facts["MNIST"] = str(find_mnist() or f"will be downloaded to {cache_directory()}")
    return facts
