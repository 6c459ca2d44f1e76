"""A TensorBoard log: curves of every trained arm, and the figures of the run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from fastmodel.harness.loggers.figures import figures, of_epochs
from fastmodel.harness.records import Report


def missing() -> bool:
    """Is the package not installed?"""
    return importlib.util.find_spec("tensorboard") is None


def write(report: Report, directory: Path) -> Path:
    """One run an arm, so that TensorBoard draws their curves into one picture; the old log goes."""
    from torch.utils.tensorboard import SummaryWriter

    root = directory / "tensorboard"
    shutil.rmtree(root, ignore_errors=True)
    for index, arm in enumerate(report.arms.values()):
        with SummaryWriter(str(root / f"{index}-{_folder(arm.name)}")) as log:
            log.add_text("arm", f"{arm.name}: {arm.description}")
            for epoch, values in of_epochs(arm):
                for name, value in values.items():
                    log.add_scalar(name, value, epoch)
            for one in figures(report):
                if one.arm == arm.name:
                    log.add_scalar(f"run/{one.name}", one.value, 0)
    with SummaryWriter(str(root / "run")) as log:
        for one in figures(report):
            if not one.arm:
                log.add_scalar(f"run/{one.name}", one.value, 0)
    return root


def _folder(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[:60]
