"""The text of the workload gpt: split by file, in an order that other files do not change."""

from __future__ import annotations

import hashlib
import itertools

import pytest
import torch

from fastmodel.errors import DataError
from fastmodel.harness.workloads import source_text

SEED_FILES = 60


@pytest.fixture
def folder(tmp_path):
    for number in range(SEED_FILES):
        (tmp_path / "sub").mkdir(exist_ok=True)
        name = f"sub/m{number}.py" if number % 3 else f"m{number}.py"
        (tmp_path / name).write_bytes(bytes([number + 1]) * (20 + number))
    return tmp_path


def names(part, folder):
    return [p.relative_to(folder).as_posix() for p in source_text.source_files(folder)[part]]


def sequences(part, length, most_bytes=None, folder=None):
    return source_text.sequences(source_text.source_files(folder)[part], length, most_bytes)


def test_each_file_is_in_one_part_and_a_neighbour_does_not_move_it(folder):
    before = {part: names(part, folder) for part in source_text.PARTS}
    assert sorted(itertools.chain(*before.values())) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.py")
    )
    assert len(before["train"]) > 40 and before["validation"] and before["test"]
    (folder / "another.py").write_bytes(b"x" * 50)
    after = {part: names(part, folder) for part in source_text.PARTS}
    assert sum(len(files) for files in after.values()) == SEED_FILES + 1
    for part in source_text.PARTS:
        assert [name for name in after[part] if name != "another.py"] == before[part]
    assert before["train"] == sorted(
        before["train"], key=lambda name: hashlib.sha256(name.encode()).digest()
    )


def test_the_parts_have_their_shares():
    parts = [source_text.part_of(byte) for byte in range(256)]
    assert (parts.count("validation"), parts.count("test"), parts.count("train")) == (13, 13, 230)


def test_what_is_not_the_librarys_own_is_left_out(folder):
    before = names("train", folder)
    for other in ("site-packages", "test", "sub/tests", "lib2to3"):
        (folder / other).mkdir(parents=True)
        for number in range(20):
            (folder / other / f"x{number}.py").write_bytes(b"y" * 100)
    (folder / "sub" / "notes.txt").write_bytes(b"z" * 100)
    assert names("train", folder) == before


def test_targets_are_one_byte_ahead(folder):
    split = sequences("train", 16, folder=folder)
    text = b"".join((folder / name).read_bytes() + b"\0" for name in names("train", folder))
    assert len(split) == (len(text) - 1) // 16
    assert split.inputs.dtype == split.targets.dtype == torch.int64
    assert bytes(split.inputs.flatten().tolist()) == text[: 16 * len(split)]
    assert bytes(split.targets.flatten().tolist()) == text[1 : 16 * len(split) + 1]


@pytest.mark.parametrize("most", [160, 161, 175, 176])
def test_no_more_than_asked_for(folder, most):
    whole = sequences("train", 16, folder=folder)
    some = sequences("train", 16, most, folder)
    assert len(some) == most // 16
    assert torch.equal(some.inputs, whole.inputs[: len(some)])
    assert torch.equal(some.targets, whole.targets[: len(some)])


def test_too_little_text_is_said(tmp_path, folder):
    with pytest.raises(DataError, match=r"a part has [\d,]+ bytes, too few for a sequence of"):
        sequences("validation", 100_000, folder=folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds no \*\.py"):
        sequences("train", 16, folder=empty)


def test_a_file_that_cannot_be_read_is_said(folder):
    (folder / "gone.py").symlink_to(folder / "nowhere")
    part = source_text.part_of(hashlib.sha256(b"gone.py").digest()[0])
    with pytest.raises(DataError, match=r"gone\.py cannot be read"):
        sequences(part, 16, folder=folder)


def test_the_standard_library_is_there():
    first, again = (sequences("train", 128, 4096) for _ in range(2))
    assert len(first) == 32 and torch.equal(first.inputs, again.inputs)
    for part in ("validation", "test"):
        assert len(sequences(part, 128, 65_536)) == 512
