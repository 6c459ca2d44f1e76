"""Python in a process of its own, with the fastmodel that the tests themselves import.

The code goes into a file: `python -c` and `python -m` would put the current directory, which may be a
checkout without the extension, before the installed package.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import sys
import tempfile
from pathlib import Path


def script(code: str, *arguments: str) -> list[str]:
    """The command that runs `code` with warnings as errors, from an otherwise empty folder."""
    folder = tempfile.mkdtemp(prefix="fastmodel-test-")
    atexit.register(shutil.rmtree, folder)
    path = Path(folder) / "script.py"
    path.write_text(code)
    return [sys.executable, "-W", "error", str(path), *arguments]


def heed_interrupts() -> None:
    """For `preexec_fn`: a suite that a shell has put into the background hands on that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
