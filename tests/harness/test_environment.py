from __future__ import annotations

import json
import subprocess
import types

import pytest
import torch

import fastmodel as fm
from fastmodel import env
from fastmodel.harness import doctor, environment


def row(backend: str, reason: str | None):
    return types.SimpleNamespace(backend=backend, available=reason is None, reason=reason)


def test_it_describes_this_process():
    found = environment.environment()
    assert found.torch_version == torch.__version__
    assert found.threads == torch.get_num_threads()
    assert found.cpu_count >= 1 and found.memory_bytes > 1 << 28
    assert len(found.hostname_hash) == 12
    assert (found.cpu_model is None) == ("cpu_model" in found.missing)
    assert (found.commit is None) == ("commit" in found.missing)


def test_the_host_is_not_named(monkeypatch):
    monkeypatch.setattr(env.socket, "gethostname", lambda: "secret-host")
    assert "secret" not in env.hostname_hash()
    assert env.hostname_hash() == env.hostname_hash()


def test_a_backend_is_available_if_one_of_its_kernels_is(monkeypatch):
    rows = [row("cpu", "not built"), row("cpu", None), row("cpu", "late"), row("cuda", "no device")]
    monkeypatch.setattr(fm, "kernels", lambda: rows)
    assert environment.backends() == {"cpu": "available", "cuda": "no device"}


def test_the_commit_is_that_of_the_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    (tmp_path / "fastmodel" / "harness").mkdir(parents=True)
    file = tmp_path / "fastmodel" / "x.py"
    file.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    commit = git("rev-parse", "HEAD").stdout.strip()
    monkeypatch.chdir(tmp_path / "fastmodel")
    assert environment.environment().commit == commit
    file.write_text("2")
    assert environment.environment().commit == f"{commit}-dirty"


def test_elsewhere_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = environment.environment()
    assert found.commit is None
    assert found.missing["commit"] == "not run from a checkout of fastmodel"


def test_doctor_says_what_is_missing_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor, "find_mnist", lambda: None)
    facts = doctor.diagnose()
    json.dumps(facts)
    assert facts["nvcc"].startswith("not found")
    assert "pip install 'fastmodel[triton]'" in facts["triton"]
    assert "downloaded" in facts["MNIST"]


@pytest.mark.parametrize(
    ("forced", "said"), [("avx2", "FASTMODEL_CPU_CAPABILITY=avx2"), ("", "cpuid")]
)
def test_doctor_says_who_chose_the_capability(monkeypatch, forced, said):
    monkeypatch.setenv("FASTMODEL_CPU_CAPABILITY", forced)
    assert doctor.diagnose()["capability chosen by"] == said
