"""From events to labels: what is a kernel, a view, a wrapper, a range, the data loader."""

from __future__ import annotations

import json
import types

import pytest
import torch

from fastmodel.harness.profile import trace_file
from fastmodel.harness.profile.chains import chains
from fastmodel.harness.profile.classes import partition
from fastmodel.harness.profile.operators import OUTSIDE, kinds
from fastmodel.harness.profile.trace import Event, Trace, does_no_work, nest, read, spans


@pytest.mark.parametrize(
    "name", ["aten::addmm", "aten::convolution_backward", "aten::max_pool2d_with_indices",
             "aten::relu_", "aten::_foreach_add_", "CompiledFunction", "cpp_fused_add_0",
             "fastmodel::conv_relu", "somebody::op"],
)  # fmt: skip
def test_these_compute(name):
    assert not does_no_work(name)


@pytest.mark.parametrize(
    "name", ["aten::view", "aten::t", "aten::as_strided", "aten::empty", "aten::conv2d",
             "aten::linear", "aten::cross_entropy_loss", "aten::to", "aten::detach",
             "autograd::engine::evaluate_function: AddmmBackward0", "AddmmBackward0",
             "torch::autograd::AccumulateGrad"],
)  # fmt: skip
def test_these_are_book_keeping(name):
    assert does_no_work(name)


def host(name, start, end, **more):
    return Event(name, start, end, thread=1, **more)


def step(start, end):
    return host("ProfilerStep#1", start, end, is_range=True)


def trace(*events):
    marks = [e for e in events if e.name.startswith("ProfilerStep")]
    nest([e for e in events if not e.is_device])
    return Trace(list(events), [(e.start_us, e.end_us) for e in marks])


def labels(found):
    return partition(found.window, spans(found))


def test_a_cpu_step_by_label():
    found = trace(
        step(0, 100),
        host("enumerate(DataLoader)#It.__next__", 0, 20, is_range=True),
        host("aten::stack", 5, 15),
        host("aten::conv2d", 30, 60),
        host("aten::mkldnn_convolution", 32, 58),
        host("aten::copy_", 60, 65),
        host("Optimizer.step#Adam.step", 70, 95, is_range=True),
        host("aten::addcmul_", 75, 80),
        host("gloo:all_reduce", 96, 98),
    )
    assert labels(found) == {
        "data loader": 20,
        "runtime": 4,
        "kernel": 26 + 5,
        "copy": 5,
        "communication": 2,
        "": 10 + 10 + 16 + 2,
    }


def test_another_threads_operators_are_not_the_steps():
    other = Event("aten::addmm", 10, 50, thread=2)
    assert labels(trace(step(0, 100), other)) == {"": 100}


def test_a_device_step_by_label():
    def device(name, start, end):
        return Event(name, start, end, is_device=True)

    found = trace(
        step(0, 100),
        host("aten::addmm", 0, 20),
        host("cudaLaunchKernel", 10, 15),
        device("sgemm", 12, 40),
        device("Memcpy HtoD (Pageable -> Device)", 40, 50),
        device("ncclKernel_AllReduce", 45, 60),
        host("cudaStreamSynchronize", 55, 80),
        Event("aten::mm", 85, 90, thread=7),  # the backward pass has a thread of its own
    )
    assert labels(found) == {
        "kernel": 10 + 5,
        "driver": 2 + 20,
        "device kernel": 28,
        "device copy": 10,
        "device communication": 10,
        "": 15,
    }


def test_kinds_follow_the_outermost_event_that_has_one():
    found = trace(
        step(0, 100),
        host("fastmodel.optimizer", 50, 90, is_range=True),
        host("aten::addmm", 60, 70),
        host("aten::relu", 10, 20),
        host("aten::neg", 30, 35),
    )
    shares = {part.name: part.share for part in kinds(found, 100e-6)}
    assert shares == pytest.approx(
        {"optimizer": 0.4, "activation forward": 0.1, "other operators": 0.05, OUTSIDE: 0.45}
    )


def test_events_of_the_profiler_are_read():
    event = types.SimpleNamespace(
        name="aten::mm",
        time_range=types.SimpleNamespace(start=1.0, end=3.0),
        thread=1,
        device_type=torch.autograd.DeviceType.CPU,
        is_user_annotation=False,
        scope=0,
        input_shapes=[[2, 3], [], [3, 4]],
        sequence_nr=5,
        self_device_time_total=0.0,
    )
    found = read([event]).events[0]
    assert (found.time_us, found.shapes, found.sequence) == (2.0, ((2, 3), (), (3, 4)), 5)


def test_a_chain_is_measured_there_and_back():
    x, w = (4, 1, 8, 8), (2, 1, 3, 3)
    found = trace(
        step(0, 200),
        host("aten::conv2d", 0, 10, shapes=(x, w, (2,)), sequence=3),
        host("aten::mkldnn_convolution", 1, 9),
        host("aten::relu", 10, 12, sequence=4),
        host("aten::max_pool2d", 12, 15, sequence=5),
        host("aten::relu", 16, 17, sequence=6),
        host("aten::linear", 20, 30, shapes=((4, 18), (5, 18)), sequence=7),
        host("aten::addmm", 22, 28, sequence=8),
        host("autograd::engine::evaluate_function: AddmmBackward0", 50, 57, sequence=8),
        host(
            "autograd::engine::evaluate_function: MaxPool2DWithIndicesBackward0", 60, 64, sequence=5
        ),
        host("autograd::engine::evaluate_function: ReluBackward0", 64, 65, sequence=4),
        host("autograd::engine::evaluate_function: ConvolutionBackward0", 70, 90, sequence=3),
    )
    conv, linear = chains(found)
    assert conv.shapes == (x, w, (2,))
    assert conv.times_us == {"anchor": 30, "relu": 3, "pool": 7}
    assert conv.time_us(("relu", "pool")) == 40 and conv.has(("relu", "pool"))
    assert linear.times_us == {"anchor": 17} and not linear.has(("relu",))


def chrome(steps, filler):
    events = []
    for number in range(steps):
        start = 1000.0 * number
        events.append(
            {
                "ph": "X",
                "name": f"ProfilerStep#{number}",
                "ts": start,
                "dur": 990,
                "pid": 1,
                "tid": 5,
            }
        )
        events += [
            {"ph": "X", "name": "op" * 20, "ts": start + i, "dur": 1, "pid": 1, "tid": 5}
            for i in range(filler)
        ]
    return {"traceEvents": [{"ph": "M", "name": "process_name", "pid": 1}, *events]}


def test_a_small_trace_keeps_everything_and_the_steps_get_their_track(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(chrome(3, 10)))
    assert trace_file.tidy(path) is None
    events = json.loads(path.read_text())["traceEvents"]
    assert len(events) == 1 + 1 + 33
    assert {e["tid"] for e in events if e["name"].startswith("ProfilerStep")} == {
        trace_file._STEP_TRACK
    }


def test_a_large_trace_is_cut_at_a_whole_step(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(chrome(10, 100)))
    limit = path.stat().st_size // 3
    note = trace_file.tidy(path, limit)
    assert path.stat().st_size <= limit
    events = json.loads(path.read_text())["traceEvents"]
    kept = [e["name"] for e in events if e["name"].startswith("ProfilerStep")]
    assert kept == [f"ProfilerStep#{n}" for n in range(len(kept))] and 1 <= len(kept) < 10
    assert sum(e["name"] == "op" * 20 for e in events) == 100 * len(kept)
    assert note == f"the trace holds the first {len(kept)} of 10 steps, to stay below {limit} bytes"
