"""Text that every machine has: the sources of Python's standard library, as bytes.

Files are taken in an order of their own (by a hash of their names), which also says what a file is for: 5 %
are for validation, 5 % for testing, the rest for training. So a file is in the same part on every machine,
whatever stands beside it, and the first megabyte of a part is a fair sample of it. What the files hold
depends on the version of Python.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import torch

from fastmodel.errors import DataError
from fastmodel.harness.workloads.protocol import Split

VOCABULARY = 256
PARTS = ("train", "validation", "test")
_HELD_OUT = {"validation": range(13), "test": range(13, 26)}
"""By the first byte of a name's hash: 13 of 256."""

# Not the library's own text: what was installed beside it, and tests, which some systems leave out.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3"}


def source_files(directory: Path | None = None) -> dict[str, list[Path]]:
    """The files of each part, in their order.

    Raises:
        DataError: there is no file at all.
    """
    root = Path(sysconfig.get_path("stdlib")) if directory is None else directory
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _LEFT_OUT]
        for path in (Path(folder, name) for name in names if name.endswith(".py")):
            name = path.relative_to(root).as_posix()
            found.append((hashlib.sha256(name.encode()).digest(), path))
    if not found:
        raise DataError(f"{root} holds no *.py; pass --data with a folder of texts that end so")
    files: dict[str, list[Path]] = {part: [] for part in PARTS}
    for digest, path in sorted(found):
        files[part_of(digest[0])].append(path)
    return files


def part_of(byte: int) -> str:
    """What a file is for whose name's hash begins with this byte."""
    return next((part for part, bytes_ in _HELD_OUT.items() if byte in bytes_), "train")


def sequences(files: Iterable[Path], length: int, most_bytes: int | None = None) -> Split:
    """Their text cut into sequences: inputs and targets int64 (N, length), targets one byte ahead.

    Each file ends with a zero byte. What is left at the end of the text is too short, and left out.

    Raises:
        DataError: the text is too short for a single sequence, or a file cannot be read.
    """
    text = bytearray()
    for path in files:
        try:
            text += path.read_bytes() + b"\0"
        except OSError as error:
            raise DataError(
                f"{path} cannot be read ({error.strerror}); pass --data with another folder"
            ) from error
        if most_bytes is not None and len(text) > most_bytes:
            del text[most_bytes + 1 :]
            break
    count = (len(text) - 1) // length
    if count < 1:
        raise DataError(
            f"the text of a part has {len(text):,} bytes, too few for a sequence of {length}; "
            "pass --data with a folder that holds more"
        )
    stream = torch.frombuffer(text, dtype=torch.uint8).long()
    end = count * length
    return Split(stream[:end].view(count, length), stream[1 : end + 1].view(count, length))
