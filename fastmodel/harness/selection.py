"""`fm.optimize_step` over a workload's own parts: for the command line, and for a report's waterfall."""

from __future__ import annotations

import torch

import fastmodel as fm
from fastmodel.harness import journal
from fastmodel.harness.records import Interval, LeverShare, Waterfall
from fastmodel.harness.workloads.arms import torch_optimizer
from fastmodel.harness.workloads.protocol import Options, Workload
from fastmodel.optimize import Measurement
from fastmodel.progress import Progress

BUDGET_S = 60.0
MIN_GAIN = 0.02


def select(
    workload: Workload,
    options: Options,
    progress: Progress,
    *,
    budget_s: float = BUDGET_S,
    min_gain: float = MIN_GAIN,
    explain: bool = False,
) -> fm.Plan:
    """The plan of a workload's training step: its model, loss and optimizer as it makes them.

    Args:
        workload: what is trained.
        options: batch size, seed and device are used.
        progress: where to report to.
        budget_s: the most seconds to take, about.
        min_gain: what a lever must certainly gain, 0.02 for 2 %.
        explain: measure each lever's contribution by leave-one-out.

    Raises:
        InputError: the model cannot be optimized on a batch of its training set.
    """
    torch.manual_seed(options.seed)
    model = workload.model().to(options.device)
    optimizer = torch_optimizer(workload.optimizer(), model.parameters())
    batch = workload.train.head(options.batch_size).to(options.device, torch.contiguous_format)
    step = fm.optimize_step(
        model,
        workload.loss().to(options.device),
        optimizer,
        (batch.inputs,),
        batch.targets,
        budget_s=budget_s,
        min_gain=min_gain,
        explain=explain,
        progress=progress,
    )
    return fm.plan_of(step.model)


def explained(plan: fm.Plan) -> journal.Explained:
    """A plan's contributions as an event, or the reason why there are none."""
    if plan.whole is None or not plan.contributions:
        return journal.Explained(None, plan.verdict)
    waterfall = Waterfall(
        plan.whole.torch_time_s,
        plan.whole.time_s,
        _interval(plan.whole),
        [LeverShare(one.name, _interval(one.measurement)) for one in plan.contributions],
    )
    return journal.Explained(waterfall, "")


def _interval(found: Measurement) -> Interval:
    return Interval(found.ratio, (found.low, found.high))
