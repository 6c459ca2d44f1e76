"""The exceptions that fastmodel raises on purpose.

FastmodelError
├── InputError        a value the caller gave is wrong (also a ValueError)
│   └── TargetIndexError   a class index is out of range (also an IndexError)
├── BackendError      the backend asked for cannot serve this call (also a RuntimeError)
├── BuildError        the native extension is missing or unusable (also a RuntimeError)
├── DataError         a data set is missing or corrupt
├── StorageError      results cannot be written (also an OSError)
├── ArmFailedError    an arm that runs apart has failed or died
└── GateError         optimized and baseline arms disagree in their numbers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class FastmodelError(Exception):
    """Base of every error that fastmodel raises on purpose; its text is one line that says what to do."""


class InputError(FastmodelError, ValueError):
    """A value the caller gave is wrong: a shape, dtype, device, name or number."""


class TargetIndexError(InputError, IndexError):
    """A class index of a loss's target is out of range."""


class BackendError(FastmodelError, RuntimeError):
    """The backend that was asked for by name cannot serve this call."""


class BuildError(FastmodelError, RuntimeError):
    """The native extension is missing, or was asked for a capability this machine lacks."""


class DataError(FastmodelError):
    """A data set is missing, corrupt, or could not be downloaded."""


class StorageError(FastmodelError, OSError):
    """Results cannot be written: the disk is full, or the folder may not be written."""

    @classmethod
    def of(cls, path: Path, error: OSError) -> StorageError:
        """The error that `error` is while writing `path`."""
        return cls(
            f"cannot write {path} ({error.strerror or error}); what was written before is whole: "
            "make room, then go on with --resume"
        )


class ArmFailedError(FastmodelError):
    """An arm that runs in a process of its own has failed or died; the others are unharmed."""

    def __init__(self, arm: str, reason: str) -> None:
        super().__init__(f"{arm} failed: {reason}")
        self.arm = arm
        self.reason = reason


class GateError(FastmodelError):
    """Optimized and baseline arms disagree beyond the bound; nothing was timed."""
