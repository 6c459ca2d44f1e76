"""The partition of many tensors over launches and blocks: csrc/common/cuda_tensor_chunks.h."""

import itertools
import random

import pytest

from fastmodel import env

FEW, MANY = 40, 64
LARGEST, SMALLEST = 16_384, 1_024


def chunks(sizes, multiprocessors=2, must_part=False):
    return env.cuda().probe_chunks(sizes, multiprocessors, must_part)


SIZES = {
    "none": [],
    "empty": [0],
    "empty around": [0, 5, 0, 0, 7, 0],
    "edges": [SMALLEST - 1, SMALLEST, SMALLEST + 1, 1, LARGEST + 1, 3 * LARGEST],
    "one of many chunks": [100 * LARGEST + 3],
    **{f"{n} tensors": [i % 3 for i in range(n)] for n in (FEW - 1, FEW, FEW + 1, MANY, MANY + 1)},
    "random": [random.Random(0).choice([0, 1, 63, 5000, 40_000]) for _ in range(150)],
}


@pytest.mark.parametrize("must_part", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_every_element_is_in_one_chunk(sizes, must_part):
    found = chunks(sizes, must_part=must_part)
    elements = env.cuda().probe_chunk_elements(sum(sizes), 2)
    expected = [
        (tensor, begin, min(begin + elements, size))
        for tensor, size in enumerate(sizes)
        for begin in range(0, size, elements)
    ]
    assert list(itertools.chain.from_iterable(found)) == expected


@pytest.mark.parametrize(
    ("count", "launches"), [(0, 0), (1, 1), (FEW + 1, 1), (MANY, 1), (MANY + 1, 2)]
)
def test_as_few_launches_as_hold_the_tensors(count, launches):
    assert len(chunks([7] * count)) == launches
    assert len(chunks([7] * count, must_part=True)) == count


@pytest.mark.parametrize(
    ("total", "multiprocessors", "elements"),
    [
        (0, 132, SMALLEST),
        (225_034, 132, SMALLEST),
        (132 * 4 * 2048 - 1, 132, SMALLEST),
        (132 * 4 * 2048, 132, 2048),
        (25_557_032, 132, LARGEST),
        (10**9, 132, LARGEST),
    ],
)
def test_small_lists_are_cut_finer(total, multiprocessors, elements):
    assert env.cuda().probe_chunk_elements(total, multiprocessors) == elements


def test_more_than_two_to_the_31_elements():
    size = (1 << 31) + 5
    ((*_, last),) = chunks([3, size], 132)
    assert last == (1, size // LARGEST * LARGEST, size)


@pytest.mark.parametrize(
    ("addresses", "sizes", "overlap"),
    [
        ([], [], False),
        ([64, 32], [8, 8], False),
        ([64, 36], [8, 8], True),
        ([32, 1000, 32], [8, 8, 8], True),
        ([32, 32], [8, 0], False),
    ],
)
def test_tensors_that_share_memory(addresses, sizes, overlap):
    """They are stepped in launches of their own."""
    assert env.cuda().probe_have_overlap(addresses, sizes, 4) is overlap
