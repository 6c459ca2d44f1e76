"""The main job, start to end: gate, paired timing, profile, training runs, report.

Numbers come before times: an arm that fails the gate is not timed. Timed and profiled passes are
separate runs. Every result is an event on disk before the next thing is measured, so that Ctrl-C, a crash or
a kill leaves a readable report that says it is incomplete and where it stopped, and a run that can be
taken up again: what the journal holds is not measured twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import fastmodel as fm
from fastmodel.errors import ArmFailedError, GateError, InputError
from fastmodel.harness import draft as drafting
from fastmodel.harness import gate, journal, measure, selection
from fastmodel.harness import report as rendering
from fastmodel.harness.isolated import Isolated, IsolatedRunner
from fastmodel.harness.measure import AGAIN, Runner, Stepper, Timing
from fastmodel.harness.profile import arm as arm_profile
from fastmodel.harness.profile import ceilings
from fastmodel.harness.records import CostRate, Electricity, Epoch, Report, SwapRow
from fastmodel.harness.roofline_records import Ceilings
from fastmodel.harness.store import Store
from fastmodel.harness.telemetry import Reading, give_back_memory
from fastmodel.harness.training import Test, Untrained, training_run
from fastmodel.harness.workloads.arms import Arm, default_arms
from fastmodel.harness.workloads.protocol import Options, Workload
from fastmodel.harness.workloads.recipe import recipe_of
from fastmodel.progress import Progress

TRAIN_CHOICES = ("best", "all", "none")


@dataclass(frozen=True)
class Settings:
    """What to do beyond the workload's own options.

    `train` says which arms get a training run: the best baseline and fastmodel, all, or none;
    `with_compile` adds torch.compile to the baselines, in a process of its own, which needs `source`: the
    workload as it was typed.
    """

    timing: Timing = field(default_factory=Timing)
    train: str = "best"
    with_compile: bool = False
    source: str | None = None
    rate: CostRate | None = None
    electricity: Electricity | None = None
    command: Sequence[str] = ()
    explains: bool = False
    """Does it measure what each lever of the selection adds?"""


class Bench:
    """One run of the main job over one workload; a store with events in it is a run to be taken up.

    Raises:
        InputError: the run in the store is another one.
    """

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
        self._stage = "starting"
        arms = default_arms(workload, settings.with_compile, options.device, options.recomputes)
        self._arms = {arm.name: arm for arm in arms}
        start = drafting.started(
            workload,
            options,
            settings.timing,
            list(self._arms.values()),
            settings.rate,
            settings.electricity,
            settings.command,
        )
        if store.events:
            self._draft = drafting.replay(store.events)
            _refuse_another_run(self._draft.start, start)
            self._record(journal.Resumed(start.started_at, start.command))
        else:
            self._draft = drafting.Draft(start)
            self._record(start)

    def run(self) -> Report:
        """Do it all; the report is on disk whether this returns or raises.

        Raises:
            GateError: the optimized arm's numbers are wrong; nothing was timed.
            StorageError: results cannot be written.
        """
        try:
            self._check_numbers()
            self._time()
            self._explain()
            self._profile()
            self._train()
        except KeyboardInterrupt:
            self._leave_incomplete(f"interrupted while {self._stage}")
            raise
        except BaseException as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self._leave_incomplete(f"stopped while {self._stage}: {reason}")
            raise
        report = self._draft.report()
        self._store.write(report)
        self._render(report)
        return report

    def _record(self, event: journal.Event) -> None:
        """On disk first, then in the draft."""
        self._draft.take(event, self._store.append(event))

    def _check_numbers(self) -> None:
        if self._draft.gate is None:
            self._begin("checking numbers against float64", 1)
            plain = next(arm for arm in self._arms.values() if not arm.is_optimized)
            optimized = self._arms[self._draft.optimized]
            found = gate.check(self._workload, self._options, plain, optimized)
            self._record(journal.Gated(found))
            self._progress.advance()
        assert self._draft.gate is not None
        if not self._draft.gate.passed:
            raise GateError(
                f"{self._draft.optimized} disagrees with float64, so nothing was timed: "
                f"{gate.failures(self._draft.gate)}; see the gate in report.json"
            )
        self._progress.say(f"gate passed: {len(self._draft.gate.checks)} tensors agree")

    def _time(self) -> None:
        """Calibration, paired and A/A windows; where a baseline fails, anew with the next one."""
        draft = self._draft
        while "noise" not in draft.ended:
            try:
                self._time_next()
            except ArmFailedError as error:
                self._record(journal.Failed(error.arm, error.reason, in_timing=True))
                self._progress.say(f"{error}; the others go on")
        assert draft.baseline is not None
        speedup = measure.speedup(draft.windows, draft.baseline, draft.optimized)
        low, high = speedup.ci95
        self._progress.say(
            f"{draft.optimized} over {draft.baseline}: {speedup.estimate:.2f}x "
            f"[{low:.2f}, {high:.2f}]; {draft.ended['paired']}"
        )

    def _time_next(self) -> None:
        """The first phase that has not ended."""
        draft, timing = self._draft, self._settings.timing
        best = draft.baseline
        if best is None:
            plain = [arm for arm in self._arms.values() if not arm.is_optimized]
            arms = {arm.name: arm for arm in plain if arm.name not in draft.failures}
            self._phase("calibration", arms, timing.calibration_rounds)
        elif "paired" not in draft.ended:
            pair = {name: self._arms[name] for name in (best, draft.optimized)}
            self._phase("paired", pair, timing.stopping.most)
        else:
            again = {best: self._arms[best], best + AGAIN: self._arms[best]}
            self._phase("noise", again, timing.pairs)

    def _phase(self, phase: str, arms: Mapping[str, Arm], most: int) -> None:
        """Time `arms`, each built anew, so that none is warmer than the others."""
        self._begin(f"timing {' and '.join(arms)} ({phase})", most * len(arms))
        first = self._draft.rounds(phase)
        reason = self._why_stop(phase, list(arms))
        if reason is None:
            with self._warm(arms) as runners:
                rounds = range(first, first + most)
                steps = self._steps(next(iter(runners.values())))
                for runner in runners.values():
                    runner.run(steps.warmup)
                for window in measure.windows(runners, phase, rounds, steps.window, self._options):
                    self._record(window)
                    self._progress.advance()
                    if window.position == len(arms) - 1:
                        reason = self._why_stop(phase, list(arms))
                        if reason is not None:
                            break
        self._record(journal.PhaseEnded(phase, reason or f"all {most} rounds are timed"))
        self._checkpoint()

    def _why_stop(self, phase: str, arms: Sequence[str]) -> str | None:
        """Why `phase` has enough windows of `arms`; None if it has not."""
        timing = self._settings.timing
        windows = [w for w in self._draft.windows if w.phase == phase and w.arm in arms]
        if phase == "paired":
            ratios = measure.ratios(windows, phase, *arms)
            return timing.stopping.reason(ratios, sum(w.time_s for w in windows))
        wanted = timing.calibration_rounds if phase == "calibration" else timing.pairs
        fewest = min(sum(w.arm == arm for w in windows) for arm in arms)
        return f"all {wanted} rounds are timed" if fewest >= wanted else None

    def _steps(self, runner: Stepper) -> measure.Steps:
        if self._draft.steps is None:
            steps = measure.choose_steps(runner, self._settings.timing, self._options.device)
            self._record(journal.WindowChosen(steps.window, steps.warmup))
        assert self._draft.steps is not None
        return self._draft.steps

    @contextlib.contextmanager
    def _warm(self, arms: Mapping[str, Arm]) -> Iterator[dict[str, Stepper]]:
        """The arms, built and warm, by label."""
        runners: dict[str, Stepper] = {}
        try:
            for label, arm in arms.items():
                runners[label] = self._runner(arm)
            yield runners
        finally:
            for runner in runners.values():
                runner.close()

    def _runner(self, arm: Arm) -> Stepper:
        runner: Stepper
        if arm.is_isolated:
            runner = IsolatedRunner(arm.name, self._source(arm), self._options)
        else:
            runner = Runner(arm, self._workload, self._options)
            if arm.is_optimized:
                self._record(journal.Swapped(swap_rows(runner.loop.model)))
        self._record(journal.StartedUp(arm.name, runner.startup_time_s))
        runner.run(self._settings.timing.warmup_steps)
        return runner

    def _source(self, arm: Arm) -> str:
        if self._settings.source is None:
            raise InputError(f"{arm.name} runs in a process of its own: name the workload's source")
        return self._settings.source

    def _in_its_place(self, arm: Arm, task: Callable[..., Iterator[Any]], *rest: Any) -> Iterator:
        """What `task(arm, workload, options, *rest)` yields, run here or in the arm's own process."""
        if not arm.is_isolated:
            yield from task(arm, self._workload, self._options, *rest)
            return
        child = Isolated(arm.name, self._source(arm), self._options)
        try:
            yield from child.ask(task, *rest)
        finally:
            child.close()

    def _explain(self) -> None:
        """What each lever of the measured selection adds, where it was asked for."""
        if self._settings.explains and self._draft.explained is None:
            self._stage = "explaining the speed-up"
            plan = selection.select(self._workload, self._options, self._progress, explain=True)
            self._record(selection.explained(plan))
            self._checkpoint()

    def _profile(self) -> None:
        self._begin("profiling a few steps", len(self._arms))
        steps = self._settings.timing.warmup_steps
        if self._draft.roof is None:
            self._record(self._roof())
        roof = self._draft.roof
        assert roof is not None
        for arm in self._arms.values():
            if arm.name not in self._draft.profiled and arm.name not in self._draft.failures:
                try:
                    for found in self._in_its_place(arm, profile_arm, steps, roof.ceilings):
                        event = journal.Profiled(
                            arm.name, found.parts, found.operators, found.why_no_operators
                        )
                        self._record(event)
                except ArmFailedError as error:
                    self._record(journal.Failed(arm.name, f"while it was profiled: {error.reason}"))
            self._progress.advance()
        self._checkpoint()

    def _roof(self) -> journal.RoofMeasured:
        """What the machine reaches at most in the dtype of the model's products."""
        parameters = self._workload.model().parameters()
        own = next((p.dtype for p in parameters if p.is_floating_point()), torch.float32)
        dtype = recipe_of(self._workload, self._options).autocast or own
        try:
            found = ceilings.measure(torch.device(self._options.device), dtype)
        except RuntimeError as error:  # a dtype that this device does not multiply
            return journal.RoofMeasured(None, " ".join(str(error).split())[:200])
        return journal.RoofMeasured(found)

    def _train(self) -> None:
        chosen = self._to_train()
        for name in chosen:
            if name not in self._draft.trained and name not in self._draft.failures:
                self._train_arm(self._arms[name])
        left = (
            "not trained: --train none"
            if not chosen
            else ("not trained: only the best baseline and the optimized arm are; pass --train all")
        )
        self._record(journal.Finished(left))

    def _to_train(self) -> list[str]:
        if self._settings.train == "none":
            return []
        if self._settings.train == "all":
            return list(self._arms)
        return [
            name for name in self._arms if name in (self._draft.baseline, self._draft.optimized)
        ]

    def _train_arm(self, arm: Arm) -> None:
        self._begin(f"training {arm.name}", self._options.epochs)
        give_back_memory()
        checkpoint = self._store.checkpoint(arm.name)
        test: Test | None = None
        try:
            for result in self._in_its_place(arm, training_run, checkpoint):
                if isinstance(result, Untrained):
                    self._record(journal.TrainingBegan(arm.name, result.validation_loss))
                elif isinstance(result, Epoch):
                    self._record(journal.EpochEnded(arm.name, result))
                    self._checkpoint()
                    self._progress.say(f"{arm.name} {describe(result, self._options.epochs)}")
                    self._progress.advance()
                elif isinstance(result, Test):
                    test = result
                else:
                    assert isinstance(result, Reading) and test is not None
                    self._record(journal.Trained(arm.name, test, result))
                    self._progress.say(f"{arm.name} test accuracy {test.accuracy:.2%}")
        except ArmFailedError as error:
            self._record(journal.Failed(arm.name, f"while it was trained: {error.reason}"))
            self._progress.say(f"{error}; the others go on")
        self._checkpoint()

    def _begin(self, title: str, total: int) -> None:
        self._stage = title
        self._progress.stage(title, total)

    def _checkpoint(self) -> None:
        """Put a report on disk, in case nothing after this gets to run."""
        self._store.write(self._draft.report(f"the run has not ended yet; last: {self._stage}"))

    def _leave_incomplete(self, reason: str) -> None:
        # What stopped the run is what the user must see, not a write or a drawing that fails after it.
        with contextlib.suppress(Exception):
            self._record(journal.Stopped(reason))
        with contextlib.suppress(Exception):
            report = self._draft.report(reason)
            self._store.write(report)
            self._render(report)

    def _render(self, report: Report) -> None:
        self._store.write_files(
            {
                "report.md": rendering.render_markdown(report),
                "report.html": rendering.render_html(report),
            }
        )


def profile_arm(
    arm: Arm, workload: Workload, options: Options, warmup_steps: int, roof: Ceilings | None
) -> Iterator[arm_profile.ArmProfile]:
    """Build `arm` anew, warm it up and profile it."""
    runner = Runner(arm, workload, options)
    runner.run(warmup_steps)
    yield arm_profile.profile(runner, roof)


def _refuse_another_run(kept: journal.Started, asked: journal.Started) -> None:
    """A run goes on only as it was begun: same job, same machine, same versions, same timing."""
    pairs: dict[str, tuple[object, object]] = {
        "version of the results": (kept.schema_version, asked.schema_version),
        "timing": (kept.timing, asked.timing),
        "arms": ([arm.name for arm in kept.arms], [arm.name for arm in asked.arms]),
        "rate": (kept.cost_rate, asked.cost_rate),
        "electricity": (kept.electricity, asked.electricity),
        **_fields(kept.workload, asked.workload),
        **_fields(kept.environment, asked.environment),
    }
    for name, (old, new) in pairs.items():
        if old != new:
            raise InputError(
                f"--resume: the run there has another {name.replace('_', ' ')} ({old}; now {new}); "
                "resume it as it was begun, or pass another --out"
            )


def _fields(old: Any, new: Any) -> dict[str, tuple[object, object]]:
    names = [field.name for field in dataclasses.fields(old)]
    return {name: (getattr(old, name), getattr(new, name)) for name in names}


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
