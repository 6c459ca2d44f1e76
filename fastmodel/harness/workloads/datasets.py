"""MNIST as its four original IDX files: found on this machine, or downloaded once and verified.

An IDX file is big-endian: two zero bytes, a type byte (8 is uint8), the number of dimensions, each
dimension as uint32, then the values. What is checked is the SHA-256 of the *decompressed* bytes, so
every packaging of the same data is as good as any other.

Source: LeCun, Cortes and Burges, The MNIST database of handwritten digits.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import struct
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmodel.errors import DataError

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)

SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

_CHECKOUT = Path("benchmarks", "data", "mnist")
_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 30.0
_BAD_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class Mnist:
    """Images as uint8 of shape (N, 28, 28), labels as uint8 of shape (N,)."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_mnist(directory: Path | None = None, mirrors: Sequence[str] = MIRRORS) -> Mnist:
    """Read MNIST from `directory`, or from wherever it is found; download it as the last resort.

    Without `directory` the places are: `benchmarks/data/mnist` in the working directory and its
    parents, the same in the source tree that the package runs from, the user's cache directory.

    Raises:
        DataError: a file is missing from `directory`, is corrupt, or could not be downloaded.
    """
    source = directory if directory is not None else find_mnist()
    if source is None:
        source = cache_directory()
        for name in SHA256:
            download(name, source, mirrors)
    arrays = {name: read_idx(source, name) for name in SHA256}
    return Mnist(*arrays.values())


def find_mnist() -> Path | None:
    """The first place on this machine that holds all four files, or None."""
    here = Path.cwd()
    roots = [here, *here.parents, Path(__file__).resolve().parents[3]]
    places = [*(root / _CHECKOUT for root in roots), cache_directory()]
    return next((place for place in places if all(_stored(place, n) for n in SHA256)), None)


def cache_directory() -> Path:
    """Where downloads are kept."""
    import platformdirs  # needed by downloads alone

    return Path(platformdirs.user_cache_dir("fastmodel"), "mnist")


def read_idx(directory: Path, name: str) -> np.ndarray:
    """The values of one IDX file, gzipped or plain, after its SHA-256 is verified.

    Raises:
        DataError: the file is missing, unreadable, or not the original.
    """
    path = _stored(directory, name)
    if path is None:
        raise DataError(
            f"{directory / name}.gz is missing; put the four MNIST files there, "
            "or leave out --data to have them found or downloaded"
        )
    try:
        content = decompressed(path.read_bytes())
    except _BAD_GZIP as error:
        raise DataError(f"{path} is not whole ({error}); delete it and retry") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check its permissions") from error
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(f"{path} is not the original {name}: wrong SHA-256; delete it and retry")
    return parse_idx(content)


def parse_idx(content: bytes) -> np.ndarray:
    """The array that an IDX file of unsigned bytes holds.

    Raises:
        DataError: the header is not that of unsigned bytes, or the length does not match it.
    """
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError("not an IDX file of unsigned bytes; expected it to begin with 00 00 08")
    dimensions = content[3]
    header_bytes = 4 + 4 * dimensions
    if len(content) < header_bytes:
        raise DataError(f"IDX header of {dimensions} dimensions is cut short; fetch the file again")
    shape = struct.unpack(f">{dimensions}I", content[4:header_bytes])
    values = np.frombuffer(content, np.uint8, offset=header_bytes)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"IDX file of shape {shape} holds {values.size} values; fetch it again")
    return values.reshape(shape)


def decompressed(content: bytes) -> bytes:
    """`content` without its gzip wrapping, if it has one."""
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def download(name: str, directory: Path, mirrors: Sequence[str] = MIRRORS) -> Path:
    """Fetch one file into `directory`, unless a good copy is there; each mirror is tried in turn.

    A transfer that broke off is kept as `.part` and resumed; one that is complete but wrong is
    thrown away. The file appears under its name only when its SHA-256 has been verified.

    Raises:
        DataError: no mirror gave the original file, or the directory cannot be written.
    """
    target = directory / f"{name}.gz"
    partial = directory / f"{name}.gz.part"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if target.exists() and _is_original(target, name):
            return target
        failures = []
        for mirror in mirrors:
            failure = _fetch(f"{mirror.rstrip('/')}/{name}.gz", partial)
            if failure is None and not _is_original(partial, name):
                partial.unlink()
                failure = "wrong SHA-256"
            if failure is None:
                os.replace(partial, target)
                return target
            failures.append(f"{mirror}: {failure}")
    except OSError as error:
        raise DataError(f"{directory} cannot be written ({error}); pass --data DIR") from error
    raise DataError(
        f"{name}.gz could not be downloaded ({'; '.join(failures)}); "
        "fetch the four MNIST files by hand and pass --data DIR"
    )


def _fetch(url: str, partial: Path) -> str | None:
    """Append what `partial` still lacks of `url`; None when the server says it is whole."""
    have_bytes = partial.stat().st_size if partial.exists() else 0
    headers = {"User-Agent": "fastmodel"} | (
        {"Range": f"bytes={have_bytes}-"} if have_bytes else {}
    )
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
            resumes = response.status == http.HTTPStatus.PARTIAL_CONTENT
            length = response.headers.get("Content-Length")
            received_bytes = 0
            with partial.open("ab" if resumes else "wb") as file:
                while chunk := response.read(_CHUNK_BYTES):
                    received_bytes += file.write(chunk)
    except urllib.error.HTTPError as error:
        error.close()
        # 416: nothing lies beyond what we have, so the file is whole or not this one.
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        return f"HTTP {error.code}"
    except (
        urllib.error.URLError,
        http.client.HTTPException,
        TimeoutError,
        ConnectionError,
    ) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    if length is not None and received_bytes < int(length):
        return f"connection closed after {received_bytes} of {length} bytes"
    return None


def _is_original(path: Path, name: str) -> bool:
    try:
        content = decompressed(path.read_bytes())
    except _BAD_GZIP:
        return False
    return hashlib.sha256(content).hexdigest() == SHA256[name]


def _stored(directory: Path, name: str) -> Path | None:
    places = (directory / f"{name}.gz", directory / name)
    return next((place for place in places if place.is_file()), None)
