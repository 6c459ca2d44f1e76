"""The profile of a script or of a block of code, and its files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import pydantic

from fastmodel.errors import DataError, InputError
from fastmodel.harness.profile import Schedule, Session, script
from fastmodel.harness.profile_records import ProfileReport
from fastmodel.harness.report.profile_page import render_profile
from fastmodel.harness.store import write_atomically
from fastmodel.harness.telemetry import PERIOD_S

JSON_NAME, HTML_NAME, TRACE_NAME = "profile.json", "profile.html", "trace.json"
_REPORT = pydantic.TypeAdapter(ProfileReport)


@dataclass(frozen=True)
class Settings:
    """What to do beyond running the script.

    `stop` ends the script once the report is there. `has_trials` tries channels_last and autocast on copies
    of the script's model.
    """

    schedule: Schedule = field(default_factory=Schedule)
    has_trace: bool = False
    period_s: float | None = PERIOD_S
    has_trials: bool = True
    stop: bool = False
    command: Sequence[str] = ()


def profile_script(
    target: str,
    arguments: Sequence[str],
    directory: Path,
    settings: Settings,
    is_module: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[ProfileReport | None, script.Ending]:
    """Run a script under a session, and write its profile into `directory`.

    The report is on disk as soon as the last phase has ended; the script goes on to its own end.

    Args:
        target: path of the script, or name of the module.
        arguments: the script's own.
        directory: made where it does not exist.
        say: told when the report is there.

    Returns:
        The report, and how the script ended. No report in a child that the script forked.

    Raises:
        InputError: there is no such script, or the directory cannot be written; nothing was run.
    """
    script.check(target, is_module)
    _prepare(directory)
    pid = os.getpid()

    def done() -> None:
        _write(directory, session.finish())
        say(f"profile: {directory / HTML_NAME}")
        if settings.stop:
            raise script.StopScript

    session = Session(
        settings.schedule,
        trace_file=directory / TRACE_NAME if settings.has_trace else None,
        period_s=settings.period_s,
        has_trials=settings.has_trials,
        on_done=done,
        command=settings.command,
    )
    session.start()
    try:
        ending = script.run(target, arguments, is_module)
    finally:
        session.close()
    if os.getpid() != pid:
        return None, ending
    session.exit_code = ending.exit_code
    was_done = session.is_done
    report = dataclasses.replace(session.finish(ending.reason), exit_code=ending.exit_code)
    if was_done and ending.reason is not None:
        note = f"after the profile was taken, {ending.reason}"
        report = dataclasses.replace(report, notes=[*report.notes, note])
    _write(directory, report)
    return report, ending


class Profile:
    """What `profile` gives: a context manager around a training loop; then `report`, and `print` it."""

    def __init__(self, settings: Settings, by_optimizer: bool, trace: Path | None) -> None:
        self._session = Session(
            settings.schedule,
            by_optimizer=by_optimizer,
            trace_file=trace,
            period_s=settings.period_s,
            has_trials=settings.has_trials,
        )
        self._report: ProfileReport | None = None

    def __enter__(self) -> Profile:
        self._session.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        frames: TracebackType | None,
    ) -> None:
        self._session.close()
        reason = None if kind is None else f"the block raised {kind.__name__}: {error}"
        self._report = self._session.finish(reason)

    def step(self) -> None:
        """Say that one training step has ended."""
        self._session.step()

    @property
    def report(self) -> ProfileReport:
        """What was found, once the block has ended.

        Raises:
            InputError: it has not ended yet.
        """
        if self._report is None:
            raise InputError("profile: the report is there once the `with` block has ended")
        return self._report

    def write(self, directory: str | Path) -> Path:
        """Write profile.json and profile.html; returns the path of the latter."""
        path = Path(directory)
        _prepare(path)
        _write(path, self.report)
        return path / HTML_NAME

    def __str__(self) -> str:
        import rich.console

        from fastmodel.harness.profile_tables import profile_tables

        console = rich.console.Console(width=120)
        with console.capture() as captured:
            console.print(*profile_tables(self.report), sep="\n\n")
        return captured.get()


def profile(
    schedule: Schedule | None = None,
    *,
    by_optimizer: bool = False,
    trace: str | Path | None = None,
    telemetry_period_s: float | None = PERIOD_S,
    has_trials: bool = True,
) -> Profile:
    """Profile the training loop in a `with` block: where a step goes, what bounds it, what to change.

    ::

        with fm.profile() as p:
            for x, y in loader:
                ...
                p.step()
        print(p)
        p.write("reports/my-loop")

    The loop's results are what they would be without it, but for the control run: where the data loader
    holds up the step, a few steps train on one batch again (`Schedule(control=0)` leaves that out).

    Args:
        schedule: how many steps of each phase (`fastmodel.harness.profile.Schedule`); by default 6 to wait,
            20 timed, 1 to look at, 2 and 10 under the profiler, 10 of control.
        by_optimizer: find the steps through PyTorch's optimizer hooks instead of `p.step()`.
        trace: where to write the Chrome trace of the profiled steps, a path that ends in .json.
        telemetry_period_s: seconds between samples of the hardware; None for none.
        has_trials: try channels_last and autocast on copies of the model.

    Returns:
        A context manager; after the block `report` holds the record, and `str` reads as tables.

    Raises:
        InputError: a number of steps is negative, or a profiler is running already.
    """
    settings = Settings(
        schedule=schedule or Schedule(), period_s=telemetry_period_s, has_trials=has_trials
    )
    return Profile(settings, by_optimizer, None if trace is None else Path(trace))


def dump_profile(report: ProfileReport) -> str:
    """The report as JSON."""
    return _REPORT.dump_json(report, indent=2).decode() + "\n"


def load_profile(path: Path) -> ProfileReport:
    """Read a profile.json, or the one in a folder.

    Raises:
        DataError: there is none, or it is not a profile of this version.
    """
    file = path / JSON_NAME if path.is_dir() else path
    try:
        return _REPORT.validate_json(file.read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{file} is not a profile of this version ({first})") from error


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / HTML_NAME).touch()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"cannot write to {directory} ({reason}); pass --out DIR") from error


def _write(directory: Path, report: ProfileReport) -> None:
    write_atomically(directory / JSON_NAME, dump_profile(report))
    write_atomically(directory / HTML_NAME, render_profile(report))
