"""From what the user typed to a workload: a known name, or `path/to/file.py:function`."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

from fastmodel.errors import FastmodelError, InputError
from fastmodel.harness.workloads import gpt
from fastmodel.harness.workloads.cifar_resnet import CifarResnet
from fastmodel.harness.workloads.mnist_cnn import MnistCnn
from fastmodel.harness.workloads.protocol import Options, Split, Workload, missing_members
from fastmodel.harness.workloads.recipe import recipe_of
from fastmodel.harness.workloads.recsys import Recsys

WORKLOADS: dict[str, type[MnistCnn] | type[CifarResnet] | type[Recsys] | type[gpt.GptWorkload]] = {
    "mnist-cnn": MnistCnn,
    "cifar-resnet": CifarResnet,
    "recsys": Recsys,
    "gpt": gpt.GptNano,
    "gpt-llama": gpt.GptNanoLlama,
    "gpt-mini": gpt.GptMini,
    "gpt-small": gpt.GptSmall,
    "gpt-small-llama": gpt.GptSmallLlama,
}
BATCH_SIZE = 64


def batch_size(name: str) -> int:
    """The batch size of the workload called `name`, where none is asked for."""
    return getattr(WORKLOADS.get(name), "batch_size", BATCH_SIZE)


def make(name: str, options: Options) -> Workload:
    """Build the workload called `name`.

    Raises:
        InputError: nothing is called that, the file or its function is unusable, or the batch size
            does not suit the training set.
        DataError: the data set is missing or corrupt.
    """
    factory = WORKLOADS.get(name) or _load(name)
    try:
        workload = factory(options)
    except FastmodelError:
        raise
    except Exception as error:
        raise InputError(f"{name} raised {type(error).__name__}: {_one_line(error)}") from error
    _check(name, workload, options)
    return workload


def folder_name(name: str) -> str:
    """A folder's name for the reports of this workload."""
    stem = name if name in WORKLOADS else Path(name.rpartition(":")[0]).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem) or "workload"


def _load(name: str) -> Callable[[Options], Workload]:
    path_text, separator, function = name.rpartition(":")
    if not separator or not path_text.endswith(".py"):
        known = ", ".join(WORKLOADS)
        raise InputError(f"unknown workload {name!r}; use one of: {known}, or path/to/file.py:make")
    path = Path(path_text)
    if not path.is_file():
        raise InputError(f"workload file {path} does not exist; check the path")
    spec = importlib.util.spec_from_file_location(f"fastmodel_workload_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"workload file {path} cannot be imported; it must be a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        message = f"{path} could not be imported: {type(error).__name__}: {_one_line(error)}"
        raise InputError(message) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        raise InputError(f"{path} has no function {function!r}; name one that returns a workload")
    return factory


def _check(name: str, workload: Workload, options: Options) -> None:
    missing = missing_members(workload)
    if missing:
        raise InputError(
            f"the workload of {name} lacks {', '.join(missing)}; see docs/workloads.md"
        )
    for part in ("train", "validation", "test"):
        split = getattr(workload, part)
        if not isinstance(split, Split) or len(split) == 0 or len(split) != len(split.targets):
            raise InputError(
                f"{part} of {name} must be a Split of as many inputs as targets, at least one"
            )
    if options.batch_size > len(workload.train):
        raise InputError(
            f"batch size {options.batch_size} is larger than the training set of "
            f"{len(workload.train)} samples; choose a smaller --batch-size"
        )
    recipe_of(workload, options)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
