"""The main job, start to end: gate, paired timing, profile, training runs, report.

Numbers come before times: an arm that fails the gate is not timed. Timed and profiled passes are
separate runs. Every sample is on disk before the next is measured, so that Ctrl-C or a crash leaves a
readable report that says it is incomplete and where it stopped.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

import fastmodel as fm
from fastmodel.errors import GateError, InputError
from fastmodel.harness import gate, measure, training
from fastmodel.harness import report as rendering
from fastmodel.harness.draft import Draft, Test
from fastmodel.harness.measure import AGAIN, Runner, Timing
from fastmodel.harness.profile.parts import step_parts
from fastmodel.harness.records import CostRate, Epoch, Report, SwapRow
from fastmodel.harness.store import Store
from fastmodel.harness.telemetry import Meter, energy_sources, give_back_memory
from fastmodel.harness.workloads.arms import Arm, default_arms
from fastmodel.harness.workloads.protocol import Options, Workload
from fastmodel.progress import Progress

TRAIN_CHOICES = ("best", "all", "none")


@dataclass(frozen=True)
class Settings:
    """What to do beyond the workload's own options.

    `train` says which arms get a training run: the best baseline and fastmodel, all, or none;
    `with_compile` adds torch.compile to the baselines.
    """

    timing: Timing = field(default_factory=Timing)
    train: str = "best"
    with_compile: bool = False
    rate: CostRate | None = None
    command: Sequence[str] = ()


class Bench:
    """One run of the main job over one workload."""

    def __init__(
        self,
        workload: Workload,
        options: Options,
        settings: Settings,
        store: Store,
        progress: Progress,
    ) -> None:
        self._workload = workload
        self._options = options
        self._settings = settings
        self._store = store
        self._progress = progress
        self._arms = {arm.name: arm for arm in default_arms(workload, settings.with_compile)}
        self._draft = Draft(
            workload,
            options,
            settings.timing,
            list(self._arms.values()),
            settings.rate,
            settings.command,
        )

    def run(self) -> Report:
        """Do it all; the report is on disk whether this returns or raises.

        Raises:
            GateError: the optimized arm's numbers are wrong; nothing was timed.
        """
        try:
            self._check_numbers()
            self._time()
            self._profile()
            self._train()
        except KeyboardInterrupt:
            self._leave_incomplete(f"interrupted while {self._draft.stage}")
            raise
        except BaseException as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._leave_incomplete(f"stopped while {self._draft.stage}: {reason}")
            raise
        report = self._draft.report(None)
        self._store.write(report)
        self._render(report)
        return report

    def _check_numbers(self) -> None:
        self._begin("checking numbers against float64", 1)
        plain = next(arm for arm in self._arms.values() if not arm.is_optimized)
        optimized = self._arms[self._draft.optimized]
        self._draft.gate = gate.check(self._workload, self._options, plain, optimized)
        self._progress.advance()
        if not self._draft.gate.passed:
            raise GateError(
                f"{optimized.name} disagrees with float64, so nothing was timed: "
                f"{gate.failures(self._draft.gate)}; see the gate in report.json"
            )
        self._progress.say(f"gate passed: {len(self._draft.gate.checks)} tensors agree")

    def _time(self) -> None:
        """Calibration, paired and A/A windows."""
        timing = self._settings.timing
        baselines = {arm.name: arm for arm in self._arms.values() if not arm.is_optimized}
        self._windows("calibration", baselines, timing.calibration_rounds)
        best = measure.best_baseline(self._draft.windows)
        self._draft.baseline = best
        optimized = self._draft.optimized
        pair = {name: self._arms[name] for name in (best, optimized)}
        self._windows("paired", pair, timing.pairs)
        self._windows("noise", {best: baselines[best], best + AGAIN: baselines[best]}, timing.pairs)
        self._draft.noise_is_measured = True
        speedup = measure.speedup(self._draft.windows, best, optimized)
        low, high = speedup.ci95
        self._progress.say(
            f"{optimized} over {best}: {speedup.estimate:.2f}x [{low:.2f}, {high:.2f}]"
        )

    def _windows(self, phase: str, arms: dict[str, Arm], rounds: int) -> None:
        """Time `arms`, each built anew, so that all have trained equally long when they meet."""
        self._begin(f"timing {' and '.join(arms)} ({phase})", rounds * len(arms))
        runners = {label: self._warm_runner(arm) for label, arm in arms.items()}
        if self._draft.steps_per_window is None:
            first = next(iter(runners.values()))
            self._draft.steps_per_window = measure.steps_per_window(first, self._settings.timing)
        for window in measure.windows(
            runners, phase, rounds, self._draft.steps_per_window, self._options
        ):
            self._draft.windows.append(window)
            self._store.append(window)
            self._progress.advance()
        self._checkpoint()

    def _warm_runner(self, arm: Arm) -> Runner:
        runner = Runner(arm, self._workload, self._options)
        try:
            runner.run(self._settings.timing.warmup_steps)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).split())[:200]
            message = f"{arm.name} does not compile ({reason}); leave out --compile, or set CXX"
            raise InputError(message) from error
        if arm.is_optimized:
            self._draft.swaps = swap_rows(runner.loop.model)
        return runner

    def _profile(self) -> None:
        self._begin("profiling a few steps", len(self._arms))
        for arm in self._arms.values():
            self._draft.step_parts[arm.name] = step_parts(self._warm_runner(arm))
            self._progress.advance()
        self._checkpoint()

    def _train(self) -> None:
        chosen = self._to_train()
        for name in chosen:
            self._train_arm(self._arms[name])
        left = (
            "not trained: --train none"
            if not chosen
            else ("not trained: only the best baseline and the optimized arm are; pass --train all")
        )
        self._draft.untrained_reason = left

    def _to_train(self) -> list[str]:
        if self._settings.train == "none":
            return []
        if self._settings.train == "all":
            return list(self._arms)
        return [
            name for name in self._arms if name in (self._draft.baseline, self._draft.optimized)
        ]

    def _train_arm(self, arm: Arm) -> None:
        options = self._options
        self._begin(f"training {arm.name}", options.epochs)
        give_back_memory()
        sources, reason = energy_sources(options.device)
        epochs = self._draft.epochs.setdefault(arm.name, [])
        with Meter(options.device, sources, reason) as meter:
            loop = arm.build(self._workload, options)
            for epoch in training.train(loop, self._workload, options):
                epochs.append(epoch)
                self._store.append(epoch, arm=arm.name)
                self._checkpoint()
                self._progress.say(f"{arm.name} {describe(epoch, options.epochs)}")
                self._progress.advance()
        assert meter.reading is not None  # the meter has ended
        self._draft.readings[arm.name] = meter.reading
        loss, accuracy = training.evaluate(loop, loop.place(self._workload.test))
        self._draft.tests[arm.name] = Test(loss if math.isfinite(loss) else None, accuracy)
        self._progress.say(f"{arm.name} test accuracy {accuracy:.2%}")
        self._checkpoint()

    def _begin(self, title: str, total: int) -> None:
        self._draft.stage = title
        self._progress.stage(title, total)

    def _checkpoint(self) -> None:
        """Put what there is on disk, in case nothing after this gets to run."""
        self._store.write(
            self._draft.report(f"the run has not ended yet; last: {self._draft.stage}")
        )

    def _leave_incomplete(self, reason: str) -> None:
        report = self._draft.report(reason)
        self._store.write(report)
        # What stopped the run is what the user must see, not a drawing that failed because of it.
        with contextlib.suppress(Exception):
            self._render(report)

    def _render(self, report: Report) -> None:
        self._store.write_files(
            {
                "report.md": rendering.render_markdown(report),
                "report.html": rendering.render_html(report),
            }
        )


def describe(epoch: Epoch, epochs: int) -> str:
    """One epoch in one line."""
    loss = "not finite" if epoch.train_loss is None else f"{epoch.train_loss:.4f}"
    return (
        f"epoch {epoch.epoch}/{epochs}: loss {loss}, validation accuracy "
        f"{epoch.validation_accuracy:.2%}, {epoch.train_time_s:.1f} s"
    )


def swap_rows(model: nn.Module) -> list[SwapRow]:
    """The plan that `fm.optimize` left on `model`, as records: swapped places, then those left."""
    plan = fm.plan_of(model)
    return [
        SwapRow(place.site, place.pattern, place.replacement, place.reason)
        for place in (*plan.swaps, *plan.left)
    ]
