"""The workloads that can be benched, and the protocol for a user's own."""

from fastmodel.harness.workloads.arms import Arm, Loop, default_arms
from fastmodel.harness.workloads.protocol import (
    AUTOCAST,
    SCHEDULES,
    Optimizer,
    Options,
    Split,
    Workload,
    endless_batches,
    epoch_batches,
)
from fastmodel.harness.workloads.recipe import Recipe
from fastmodel.harness.workloads.registry import WORKLOADS, make

__all__ = [
    "AUTOCAST",
    "SCHEDULES",
    "WORKLOADS",
    "Arm",
    "Loop",
    "Optimizer",
    "Options",
    "Recipe",
    "Split",
    "Workload",
    "default_arms",
    "endless_batches",
    "epoch_batches",
    "make",
]
