"""Run a script as Python itself would, in this process, with something to do before and after.

The script is `__main__`, has its own `sys.argv` and its folder on `sys.path`. However it ends, what it would
have made Python's exit code is handed back, and a traceback shows its own frames alone.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from fastmodel.errors import InputError

INTERRUPTED = 130


@dataclass(frozen=True)
class Ending:
    """How a script ended."""

    exit_code: int
    reason: str | None
    """Why it did not come to its end by itself; None where it did."""
    signal: int | None = None
    """What ended it, where a signal did."""


class StopScript(BaseException):
    """Ends the script from within, as if it had come to its end."""


class _Terminated(BaseException):
    """SIGTERM, as an exception: so that what was found can still be written."""


def check(target: str, is_module: bool) -> None:
    """Say at once that there is nothing to run.

    Raises:
        InputError: no such file.
    """
    if not is_module and not Path(target).is_file():
        raise InputError(f"profile: {target} is no file; give a Python script, or -m and a module")


def run(target: str, arguments: Sequence[str], is_module: bool = False) -> Ending:
    """Run a script, or a module, to its end.

    Args:
        target: path of the script, or name of the module.
        arguments: its own, without its name.
    """
    with _as_main(target, arguments, is_module), _termination():
        try:
            if is_module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
        except StopScript:
            return Ending(0, None)
        except SystemExit as error:
            code = _exit_code(error)
            return Ending(code, None if code == 0 else f"the script exited with code {code}")
        except KeyboardInterrupt as error:
            _show(error)
            return Ending(INTERRUPTED, "the script was interrupted", signal.SIGINT)
        except _Terminated:
            return Ending(128 + signal.SIGTERM, "the script was terminated", signal.SIGTERM)
        except BaseException as error:
            _show(error)
            text = " ".join(traceback.format_exception_only(error)[-1].split())
            return Ending(1, f"the script raised {text[:300]}")
    return Ending(0, None)


@contextlib.contextmanager
def _as_main(target: str, arguments: Sequence[str], is_module: bool) -> Iterator[None]:
    argv, path = sys.argv, list(sys.path)
    sys.argv = [target, *arguments]
    sys.path.insert(0, os.getcwd() if is_module else str(Path(target).resolve().parent))
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """SIGTERM raises, where nobody else listens; the script may still set a handler of its own."""

    def raise_it(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, raise_it)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is raise_it:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_code(error: SystemExit) -> int:
    """What Python makes of `sys.exit(value)`."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """The traceback as the script alone would have it, through whatever hook the script has set."""
    own = _without(error.__traceback__, lambda path: path == __file__)
    sys.excepthook(type(error), error.with_traceback(own), own)


def _without(frames: TracebackType | None, is_ours: Callable[[str], bool]) -> TracebackType | None:
    """The traceback from the first frame on that is not ours."""
    while frames is not None:
        path = frames.tb_frame.f_code.co_filename
        if not is_ours(path) and not path.startswith("<frozen runpy"):
            return frames
        frames = frames.tb_next
    return None
