"""The machine and the software of a run, as a record. Facts come from `fastmodel.env`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import torch

import fastmodel as fm
from fastmodel import env
from fastmodel.harness.records import Environment


def environment() -> Environment:
    """What this process runs on; what could not be read is None with a reason."""
    missing: dict[str, str] = {}
    cpu_model = env.cpu_model()
    if cpu_model is None:
        missing["cpu_model"] = "the system does not tell"
    commit, reason = _commit()
    if reason is not None:
        missing["commit"] = reason
    return Environment(
        hostname_hash=env.hostname_hash(),
        os=env.os_name(),
        cpu_model=cpu_model,
        cpu_count=env.cpu_count(),
        cpu_capability=env.cpu_capability() or f"none: {env.native_missing()}",
        threads=torch.get_num_threads(),
        memory_bytes=env.memory_bytes(),
        gpus=env.gpus(),
        python_version=env.python_version(),
        torch_version=torch.__version__,
        fastmodel_version=env.VERSION,
        commit=commit,
        backends=backends(),
        variables=env.variables(),
        missing=missing,
    )


def backends() -> dict[str, str]:
    """Each backend of the kernel table: "available", or the reason why not."""
    found: dict[str, str] = {}
    for row in fm.kernels():
        state = "available" if row.available else row.reason or "not available"
        if found.get(row.backend) != "available":
            found[row.backend] = state
    return found


def _commit() -> tuple[str | None, str | None]:
    """The commit of the checkout that the working directory lies in, "-dirty" if it was changed."""
    root = next((p for p in (Path.cwd(), *Path.cwd().parents) if (p / ".git").exists()), None)
    if root is None or not (root / "fastmodel" / "harness").is_dir():
        return None, "not run from a checkout of fastmodel"
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError) as error:
        return None, f"git: {error}"
    return commit + ("-dirty" if changed else ""), None


def _git(root: Path, *arguments: str) -> str:
    answer = subprocess.run(
        ["git", "-C", os.fspath(root), *arguments],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return answer.stdout.strip()
