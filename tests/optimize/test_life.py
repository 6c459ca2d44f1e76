"""What is done with a model after `fm.optimize`: wrapped, exported, copied, frozen, listened to."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.distributed as dist
from support import zoo
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.errors import InputError
from fastmodel.optimize.levers import Built, pull
from fastmodel.optimize.step import Training


def with_entry(make, x):
    """The swapped model, its images laid out channels_last at its entry."""
    return pull(Built(by_rule(make(), x), Training()), ["channels_last"]).model


FORMS = {
    "sequential": (zoo.lenet, by_rule),
    "fx": (zoo.Functional, by_rule),
    "dynamo": (zoo.Counting, by_rule),
    "sequential, channels_last": (zoo.lenet, lambda model, x: with_entry(lambda: model, x)),
    "fx, channels_last": (zoo.Functional, lambda model, x: with_entry(lambda: model, x)),
}


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def pair(request, x):
    make, optimized = request.param
    plain = make().eval()  # dropout off
    return plain, optimized(plain, x)


@pytest.fixture
def x():
    return torch.randn(4, 1, 12, 12)


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def gradients(model, x):
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_wrapped_in_ddp(pair, x, group):
    plain, fused = pair
    expected = gradients(plain, x)
    wrapped = nn.parallel.DistributedDataParallel(fused)
    assert_same(gradients(wrapped, x), expected)
    assert fm.plan_of(wrapped) is fm.plan_of(fused)
    with pytest.raises(InputError, match="wrapped in DDP; optimize first"):
        fm.optimize(wrapped, x)


def test_wrapped_in_fsdp(pair, x, group):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    plain, fused = pair
    expected = gradients(plain, x)
    wrapped = fully_shard(fused, mesh=mesh)
    for _ in range(3):
        wrapped.zero_grad()
        out = wrapped(x)
        out.square().sum().backward()
        grads = [p.grad.full_tensor() for p in wrapped.parameters() if p.grad is not None]
        assert_same([f.detach() for f in (out, *grads)], expected)


def test_exported_as_pytorchs_own_ops(pair, x):
    plain, fused = pair
    program = torch.export.export(fused, (x,))
    assert not [n for n in program.graph.nodes if "fastmodel" in str(n.target)]
    torch.testing.assert_close(program.module()(x), plain(x), rtol=1e-4, atol=1e-5)


def test_traced_for_onnx_as_pytorchs_own_ops(pair, x, monkeypatch):
    """What the exporter's first half sees; its second half needs packages that the tests do without."""
    plain, fused = pair
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit's own
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # shapes that checks compare
        traced = torch.jit.trace(fused, x, check_trace=False)
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert "aten::_convolution" in kinds and not [kind for kind in kinds if "fastmodel" in kind]
    torch.testing.assert_close(traced(x), plain(x), rtol=1e-4, atol=1e-5)


def test_exported_to_onnx(pair, x, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs the packages onnx and onnxscript")
    pytest.importorskip("onnxscript", reason="needs the packages onnx and onnxscript")
    torch.onnx.export(pair[1], (x,), tmp_path / "model.onnx", dynamo=True)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert {"Conv", "Gemm"} <= {node.op_type for node in nodes}
    assert not [node for node in nodes if "fastmodel" in node.domain]


def test_compiled_on_top(pair, x):
    plain, fused = pair
    if isinstance(plain, zoo.Counting):
        pytest.skip("it counts its calls: Dynamo would guard the count and give up")
    compiled = torch.compile(fused, backend="aot_eager")
    assert_same(gradients(compiled, x), gradients(plain, x))


def test_copied_and_pickled(pair, x):
    plain, fused = pair
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert_same(gradients(twin, x), gradients(plain, x))
        assert type(twin).__name__ == type(plain).__name__ and isinstance(twin, type(plain))
        assert fm.plan_of(twin) == fm.plan_of(fused)
        assert list(twin.state_dict()) == list(plain.state_dict())


def test_frozen_and_unfrozen_later(pair, x):
    plain, fused = pair
    first, *rest = fused.parameters()
    first.requires_grad_(False)
    fused.zero_grad()
    fused(x).sum().backward()
    assert first.grad is None and any(p.grad is not None for p in rest)
    first.requires_grad_(True)
    assert_same(gradients(fused, x), gradients(plain, x))


def test_hooks_of_the_whole_model(pair, x):
    _, fused = pair
    heard = []
    fused.register_forward_pre_hook(lambda *_: heard.append("before"))
    fused.register_forward_hook(lambda *_: heard.append("after"))
    fused.register_full_backward_hook(lambda *_: heard.append("backward"))
    fused(x.requires_grad_()).sum().backward()
    assert heard == ["before", "after", "backward"]


def test_moved_to_another_dtype(pair, x):
    plain, fused = pair
    expected = copy.deepcopy(plain).double()(x.double())
    torch.testing.assert_close(copy.deepcopy(fused).double()(x.double()), expected)


def test_in_inference_mode_and_without_gradients(pair, x):
    plain, fused = pair
    with torch.no_grad():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-4, atol=1e-5)


def test_under_autocast(pair, x):
    plain, fused = pair
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fused(x).float(), plain(x).float(), rtol=5e-2, atol=5e-2)


def test_lazy_and_spectral_modules_are_left():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)), nn.ReLU())
    plan = fm.plan_of(by_rule(model, torch.randn(3, 6)))
    assert not plan.swaps and "beyond weight and bias" in plan.left[0].reason
    with pytest.raises(InputError, match="has no shape yet"):
        by_rule(nn.Sequential(nn.LazyConv2d(3, 3), nn.ReLU()), torch.randn(2, 1, 5, 5))
