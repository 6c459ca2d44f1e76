"""Where a step ends, what the data loader takes, how long a thread slept."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import fastmodel as fm
from fastmodel.harness.profile.loader import LoaderWatch
from fastmodel.harness.profile.sleep import SleepClock
from fastmodel.harness.profile.steps import StepFinder, boundary_of


@pytest.fixture
def steps():
    """A finder that is listening, and the steps that it found."""
    found: list[int] = []
    finder = StepFinder(lambda: found.append(1))
    finder.start()
    yield finder, found
    finder.stop()


def linear():
    layer = nn.Linear(2, 1)
    layer(torch.ones(1, 2)).sum().backward()
    return layer


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, fm.optim.SGD, fm.optim.Adam])
def test_each_step_of_the_one_optimizer_is_a_step(steps, kind):
    finder, found = steps
    optimizer = kind(linear().parameters(), lr=0.1)
    for _ in range(9):
        optimizer.step()
    assert len(found) == 9
    assert finder.boundary == f"{kind.__name__}.step" and finder.optimizers == [optimizer]
    finder.stop()
    optimizer.step()
    assert len(found) == 9


def test_a_closure_that_runs_many_times_is_one_step(steps):
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=5)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 2)).pow(2).sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert len(steps[1]) == 3 and len(calls) > 3


def test_with_two_optimizers_the_last_of_a_round_ends_the_step(steps):
    finder, found = steps
    first = torch.optim.SGD(linear().parameters(), lr=0.1)
    second = torch.optim.Adam(linear().parameters())
    marks = []
    for _ in range(10):
        first.step()
        marks.append(len(found))
        second.step()
        marks.append(len(found))
    # Once three rounds were seen, the count rises with the second one only.
    later = marks[8:]
    assert [b - a for a, b in itertools.pairwise(later)] == [1, 0] * 5 + [1]
    assert finder.boundary == "Adam.step, one of 2 optimizers"


@pytest.mark.parametrize(
    ("calls", "expected"),
    [([1], 1), ([1, 2, 1, 2], 2), ([1, 1, 1, 2, 1, 1], 2), ([2, 1, 1, 2, 1, 1], 2), ([3, 1, 2], 2)],
)
def test_the_rarest_ends_the_step_and_of_equals_the_last(calls, expected):
    assert boundary_of(calls) == expected


def test_an_optimizer_within_another_counts_once(steps):
    class Outer(torch.optim.SGD):
        def __init__(self, parameters):
            super().__init__(parameters, lr=0.1)
            self.inner = torch.optim.SGD(self.param_groups[0]["params"], lr=0.1)

        def step(self, closure=None):
            return self.inner.step()

    outer = Outer(list(linear().parameters()))
    for _ in range(4):
        outer.step()
    assert len(steps[1]) == 4 and steps[0].boundary == "Outer.step"


def test_a_step_that_raised_is_no_step_and_those_after_it_are(steps):
    class Picky(torch.optim.SGD):
        def step(self, closure=None):
            if closure is not None:
                raise ValueError("planted")
            return super().step()

    optimizer = Picky(linear().parameters(), lr=0.1)
    optimizer.step()
    for _ in range(2):
        with pytest.raises(ValueError, match="planted"):
            optimizer.step(lambda: None)
    optimizer.step()
    assert len(steps[1]) == 2


def test_without_a_step_the_boundary_says_so():
    assert StepFinder(lambda: None).boundary == "no optimizer has stepped"


class Slow(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.tensor([float(index)])


def test_the_loaders_time_is_counted_and_the_originals_come_back():
    kind = torch.utils.data.dataloader._BaseDataLoaderIter
    before = kind.__next__, DataLoader.__iter__
    with LoaderWatch() as watch:
        loader = DataLoader(Slow(), batch_size=2)
        assert len(list(loader)) == 3
        assert 0.06 <= watch.waited_s < 3
        assert watch.batches == 3 and watch.loaders == [loader]
    assert (kind.__next__, DataLoader.__iter__) == before


def test_a_cached_batch_is_handed_out_again_and_the_data_are_left_alone():
    loader = DataLoader(TensorDataset(torch.arange(6.0)), batch_size=2)
    with LoaderWatch() as watch:
        batches = iter(loader)
        (first,) = next(batches)
        watch.cached = True
        assert all(next(batches)[0] is first for _ in range(5))
        waited_s = watch.waited_s
        watch.forget()
        assert [b[0].tolist() for b in batches] == [[2.0, 3.0], [4.0, 5.0]]
        assert watch.waited_s > waited_s


def test_a_loader_that_another_thread_reads_keeps_nobody_waiting():
    with LoaderWatch() as watch:
        thread = threading.Thread(target=lambda: list(DataLoader(Slow(), batch_size=2)))
        thread.start()
        thread.join()
        assert watch.waited_s == 0.0


def test_sleep_is_counted_and_work_is_not():
    clock = SleepClock()
    start_s = clock.now_s()
    time.sleep(0.2)
    slept_s = clock.now_s() - start_s
    assert 0.15 < slept_s < 2
    start_s = clock.now_s()
    deadline_s = time.thread_time() + 0.2
    while time.thread_time() < deadline_s:
        pass
    assert clock.now_s() - start_s < 0.1 or not clock.has_run_queue
