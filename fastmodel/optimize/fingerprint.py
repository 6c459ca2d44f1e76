"""What a plan's measurements hold for: this machine and software, this model, these inputs."""

from __future__ import annotations

import hashlib

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastmodel import env
from fastmodel.optimize.evidence import Fingerprint
from fastmodel.optimize.trial import Examples


def fingerprint_of(model: nn.Module, examples: Examples) -> Fingerprint:
    """The fingerprint of a model and inputs on this machine."""
    return Fingerprint(_environment(), _model_hash(model), _inputs_text(examples))


def _environment() -> dict[str, str]:
    return {
        "cpu": env.cpu_model() or "unknown",
        "cpu_capability": env.cpu_capability() or "none",
        "cpus": str(env.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpus": ", ".join(env.gpus()) or "none",
        "torch": torch.__version__,
        "fastmodel": env.VERSION,
        **{f"variable {name}": value for name, value in env.variables().items()},
    }


def _model_hash(model: nn.Module) -> str:
    lines = [f"{name} {type(module).__name__}" for name, module in model.named_modules()]
    lines += [f"{k} {tuple(v.shape)} {v.dtype}" for k, v in _state(model)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _state(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _inputs_text(examples: Examples) -> str:
    def text(value: object) -> str:
        if isinstance(value, torch.Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            return f"{'x'.join(map(str, value.shape))} {dtype} {value.device.type}"
        return repr(value) if isinstance(value, (bool, int, float, str)) else type(value).__name__

    leaves, spec = pytree.tree_flatten((examples.args, examples.kwargs))
    return (
        "; ".join(map(text, leaves)) + f" in {hashlib.sha256(str(spec).encode()).hexdigest()[:8]}"
    )
