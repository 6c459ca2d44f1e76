"""The MNIST loader, against small files and a server of our own on 127.0.0.1."""

import gzip
import hashlib
import http.server
import struct
import threading
from pathlib import Path

import numpy as np
import pytest

from fastmodel.errors import DataError
from fastmodel.harness.workloads import datasets

NAME = "train-labels-idx1-ubyte"


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def originals(monkeypatch) -> dict[str, bytes]:
    """Four small files that pass for the originals."""
    random = np.random.default_rng(0)
    files = {
        "train-images-idx3-ubyte": idx(random.integers(0, 256, (40, 28, 28))),
        NAME: idx(random.integers(0, 10, (40,))),
        "t10k-images-idx3-ubyte": idx(random.integers(0, 256, (10, 28, 28))),
        "t10k-labels-idx1-ubyte": idx(random.integers(0, 10, (10,))),
    }
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(datasets, "SHA256", hashes)
    return files


@pytest.fixture
def directory(originals, tmp_path) -> Path:
    place = tmp_path / "mnist"
    place.mkdir()
    for name, content in originals.items():
        (place / f"{name}.gz").write_bytes(gzip.compress(content))
    return place


class Mirror:
    """A server that gives `files`, and misbehaves as told."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after_bytes: int | None = None
        self.status: int | None = None
        self.ignores_range = False
        self.ranges: list[str | None] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.answer(self)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/mnist/"

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.ranges.append(wanted)
        content = self.files.get(handler.path.rsplit("/", 1)[-1])
        if content is None or self.status is not None:
            handler.send_error(self.status or 404)
            return
        start = 0
        if wanted and not self.ignores_range:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(content):
                handler.send_error(416)
                return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = None if self.cut_after_bytes is None else start + self.cut_after_bytes
        handler.wfile.write(content[start:end])


@pytest.fixture
def mirror(originals):
    mirror = Mirror()
    mirror.files = {f"{name}.gz": gzip.compress(content) for name, content in originals.items()}
    thread = threading.Thread(target=mirror.server.serve_forever, args=(0.01,))
    thread.start()
    yield mirror
    mirror.server.shutdown()
    thread.join()
    mirror.server.server_close()


def test_reads_all_four_files(directory):
    mnist = datasets.load_mnist(directory)
    assert mnist.train_images.shape == (40, 28, 28)
    assert mnist.test_labels.shape == (10,)
    assert mnist.train_images.dtype == np.uint8


def test_plain_files_are_as_good_as_gzipped(directory, originals):
    (directory / f"{NAME}.gz").unlink()
    (directory / NAME).write_bytes(originals[NAME])
    assert datasets.read_idx(directory, NAME).tobytes() == originals[NAME][8:]


def test_the_checkout_is_found_from_a_folder_below_it(directory, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "benchmarks" / "data").mkdir(parents=True)
    directory.rename(checkout / "benchmarks" / "data" / "mnist")
    below = checkout / "docs" / "deep"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert datasets.find_mnist() == checkout / "benchmarks" / "data" / "mnist"


def test_a_missing_file_is_named(directory):
    (directory / f"{NAME}.gz").unlink()
    with pytest.raises(DataError, match=f"{NAME}.gz is missing.*--data"):
        datasets.load_mnist(directory)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other data", "not gzip"])
def test_a_corrupt_file_is_refused(directory, originals, damage):
    path = directory / f"{NAME}.gz"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "other data":
        path.write_bytes(gzip.compress(originals["t10k-labels-idx1-ubyte"]))
    else:
        path.write_bytes(b"<html>try later</html>")
    with pytest.raises(DataError, match="delete it and retry") as caught:
        datasets.load_mnist(directory)
    assert "\n" not in str(caught.value)


def test_an_unreadable_file_is_refused(directory):
    (directory / f"{NAME}.gz").unlink()
    (directory / f"{NAME}.gz").mkdir()  # a folder in its place does not count as the file
    with pytest.raises(DataError, match="is missing"):
        datasets.load_mnist(directory)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begin with 00 00 08"),
        (b"\0\0\x0d\1" + b"\0\0\0\1" + b"\0" * 4, "unsigned bytes"),
        (b"\0\0\x08\3" + b"\0\0\0\1", "cut short"),
        (b"\0\0\x08\1" + b"\0\0\0\5" + b"abc", "holds 3 values"),
    ],
)
def test_a_bad_idx_header_is_refused(content, message):
    with pytest.raises(DataError, match=message):
        datasets.parse_idx(content)


def test_download_verifies_and_leaves_no_partial_file(mirror, tmp_path, originals):
    path = datasets.download(NAME, tmp_path, [mirror.url])
    assert gzip.decompress(path.read_bytes()) == originals[NAME]
    assert [file.name for file in tmp_path.iterdir()] == [f"{NAME}.gz"]
    datasets.download(NAME, tmp_path, [mirror.url])
    assert len(mirror.ranges) == 1  # a good copy is not fetched again


def test_other_packaging_of_the_same_bytes_is_accepted(mirror, tmp_path, originals):
    mirror.files[f"{NAME}.gz"] = gzip.compress(originals[NAME], compresslevel=1, mtime=123)
    datasets.download(NAME, tmp_path, [mirror.url])
    assert datasets.read_idx(tmp_path, NAME).size == 40


def test_a_truncated_transfer_is_resumed_where_it_broke_off(mirror, tmp_path, originals):
    mirror.cut_after_bytes = 20
    with pytest.raises(DataError, match="closed after 20 of"):
        datasets.download(NAME, tmp_path, [mirror.url])
    assert not (tmp_path / f"{NAME}.gz").exists()
    mirror.cut_after_bytes = None
    datasets.download(NAME, tmp_path, [mirror.url])
    assert mirror.ranges == [None, "bytes=20-"]
    assert datasets.read_idx(tmp_path, NAME).tobytes() == originals[NAME][8:]


def test_a_server_without_ranges_starts_over(mirror, tmp_path):
    (tmp_path / f"{NAME}.gz.part").write_bytes(b"\x1f\x8b old")
    mirror.ignores_range = True
    datasets.download(NAME, tmp_path, [mirror.url])
    assert datasets.read_idx(tmp_path, NAME).size == 40


def test_a_partial_file_that_is_already_whole_is_kept(mirror, tmp_path):
    (tmp_path / f"{NAME}.gz.part").write_bytes(mirror.files[f"{NAME}.gz"])
    datasets.download(NAME, tmp_path, [mirror.url])
    assert datasets.read_idx(tmp_path, NAME).size == 40


@pytest.mark.parametrize("damage", ["corrupt gzip", "wrong hash"])
def test_wrong_bytes_are_thrown_away_and_the_next_mirror_asked(
    mirror, tmp_path, originals, damage, monkeypatch
):
    good = mirror.files[f"{NAME}.gz"]
    bad = good[:30] + b"????" + good[34:] if damage == "corrupt gzip" else gzip.compress(b"no")
    mirror.files[f"{NAME}.gz"] = bad
    with pytest.raises(DataError, match=r"wrong SHA-256.*--data DIR"):
        datasets.download(NAME, tmp_path, [mirror.url])
    assert list(tmp_path.iterdir()) == []

    answers = iter([bad, good])
    answer = mirror.answer

    def first_bad_then_good(handler):
        mirror.files[f"{NAME}.gz"] = next(answers)
        answer(handler)

    monkeypatch.setattr(mirror, "answer", first_bad_then_good)
    datasets.download(NAME, tmp_path, [mirror.url, mirror.url])
    assert datasets.read_idx(tmp_path, NAME).size == 40


def test_a_corrupt_partial_file_does_not_stay_in_the_way(mirror, tmp_path):
    (tmp_path / f"{NAME}.gz.part").write_bytes(b"garbage")
    datasets.download(NAME, tmp_path, [mirror.url, mirror.url])
    assert mirror.ranges == ["bytes=7-", None]


def test_all_mirrors_down_names_each(mirror, tmp_path):
    mirror.status = 503
    dead = "http://127.0.0.1:9/"
    with pytest.raises(DataError, match=r"HTTP 503.*127\.0\.0\.1:9.*--data DIR") as caught:
        datasets.download(NAME, tmp_path, [mirror.url, dead])
    assert "\n" not in str(caught.value)


def test_an_unwritable_cache_is_said(mirror, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match=r"cannot be written.*--data DIR"):
        datasets.download(NAME, blocker / "mnist", [mirror.url])


def test_download_is_the_last_resort(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "find_mnist", lambda: None)
    monkeypatch.setattr(datasets, "cache_directory", lambda: tmp_path / "cache")
    mnist = datasets.load_mnist(mirrors=[mirror.url])
    assert mnist.train_labels.shape == (40,)
    assert len(mirror.ranges) == 4
    monkeypatch.undo()


def test_the_committed_files_are_the_originals():
    checkout = Path(__file__).resolve().parents[2] / "benchmarks" / "data" / "mnist"
    labels = datasets.read_idx(checkout, NAME)
    assert labels.shape == (60_000,)
    assert np.bincount(labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    ]  # fmt: skip
    assert datasets.read_idx(checkout, "t10k-images-idx3-ubyte").shape == (10_000, 28, 28)
