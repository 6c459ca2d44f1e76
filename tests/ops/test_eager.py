"""The short way past the dispatcher: taken in plain eager mode, and nowhere that something sees the call."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastmodel as fm

FACES = {
    "linear_relu": fm.functional.linear_relu,
    "conv_relu": fm.functional.conv_relu,
    "conv_relu_maxpool": fm.functional.conv_relu_maxpool,
}
everywhere = pytest.mark.parametrize("name", FACES)


def inputs(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if name == "linear_relu":
        return torch.randn(6, 5), torch.randn(3, 5), torch.randn(3)
    return torch.randn(2, 4, 8, 8), torch.randn(3, 4, 3, 3), torch.randn(3)


def op(name: str) -> torch._ops.OpOverload:
    return getattr(torch.ops.fastmodel, name).default


@everywhere
def test_a_plain_call_takes_the_short_way(name):
    """Else every other test here would pass without its guard."""
    x, weight, bias = inputs(name)
    out = FACES[name](x, weight.requires_grad_(), bias)
    assert out.grad_fn.name() == f"{name}Backward"
    assert FACES[name](x, torch.nn.Parameter(weight), bias).grad_fn.name() == f"{name}Backward"
    with torch.no_grad():
        assert FACES[name](x, weight, bias).grad_fn is None


@everywhere
def test_a_batch_of_gradients(name):
    args = [value.requires_grad_() for value in inputs(name)]
    out = FACES[name](*args)
    grads = torch.randn(3, *out.shape)
    found = torch.autograd.grad(out, args, grads, retain_graph=True, is_grads_batched=True)
    for i, grad in enumerate(grads):
        expected = torch.autograd.grad(out, args, grad, retain_graph=True)
        torch.testing.assert_close([value[i] for value in found], list(expected))


class SeenOps(TorchDispatchMode):
    """Records the ops that pass the dispatcher."""

    def __init__(self):
        super().__init__()
        self.ops = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(func)
        return func(*args, **(kwargs or {}))


class SeenCalls(TorchFunctionMode):
    """Records the functions that PyTorch's Python layer calls."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls.append(func)
        return func(*args, **(kwargs or {}))


@everywhere
def test_a_dispatch_mode_sees_both_passes(name):
    x, weight, bias = inputs(name)
    out = FACES[name](x, weight.requires_grad_(), bias)
    with SeenOps() as backward:
        out.sum().backward()
    with SeenOps() as forward:
        FACES[name](x, weight, bias)
    assert op(name) in forward.ops
    assert op(f"{name}_backward") in backward.ops


@everywhere
def test_a_function_mode_sees_the_call(name):
    with SeenCalls() as seen:
        FACES[name](*inputs(name))
    assert op(name) in seen.calls


@everywhere
def test_fake_tensors_compute_nothing(name):
    with FakeTensorMode():
        out = FACES[name](*inputs(name))
    assert type(out).__name__ == "FakeTensor"
    assert out.shape == FACES[name](*inputs(name)).shape


@everywhere
def test_the_profiler_sees_both_passes(name):
    x, weight, bias = inputs(name)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        FACES[name](x, weight.requires_grad_(), bias).sum().backward()
    seen = {event.key for event in profile.key_averages()}
    assert {f"fastmodel::{name}", f"fastmodel::{name}_backward"} <= seen


@everywhere
def test_a_compiled_graph_holds_the_op(name):
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(FACES[name], fullgraph=True, backend=backend)(*inputs(name))
    (graph,) = graphs
    assert op(name) in {node.target for node in graph.graph.nodes}


@everywhere
def test_autocast_casts(name):
    x, weight, bias = inputs(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert FACES[name](x, weight, bias).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of sizes, which a trace fixes
@everywhere
def test_a_trace_holds_the_op(name):
    traced = torch.jit.trace(FACES[name], inputs(name), check_trace=False)
    assert f"fastmodel::{name}(" in str(traced.graph)


@everywhere
def test_vmap_maps(name):
    x, weight, bias = inputs(name)
    weights = torch.stack([weight, -weight])
    found = torch.vmap(lambda w: FACES[name](x, w, bias))(weights)
    expected = torch.stack([FACES[name](x, w, bias) for w in weights])
    torch.testing.assert_close(found, expected)


@everywhere
@pytest.mark.parametrize("position", [0, 1, 2])
def test_lazily_negated_tensors(name, position):
    """Such a tensor's memory holds the values before the sign."""
    args = inputs(name)
    negated = [*args[:position], torch._neg_view(args[position]), *args[position + 1 :]]
    expected = [*args[:position], -args[position], *args[position + 1 :]]
    torch.testing.assert_close(FACES[name](*negated), FACES[name](*expected))


@everywhere
def test_a_lazily_negated_gradient(name):
    x, weight, bias = inputs(name)
    weight.requires_grad_()
    out = FACES[name](x, weight, bias)
    grad = torch.randn_like(out)
    (found,) = torch.autograd.grad(out, weight, torch._neg_view(grad), retain_graph=True)
    (expected,) = torch.autograd.grad(out, weight, -grad)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own jvp
@everywhere
def test_forward_mode_derivatives(name):
    """Tangents are never dropped: the reference carries them, and a backend that cannot says so."""
    x, weight, bias = (a.double() for a in inputs(name))

    def call(w):
        return FACES[name](x, w, bias)

    tangent = torch.randn_like(weight)
    _, found = torch.func.jvp(call, (weight,), (tangent,))
    step = 1e-6 * tangent
    torch.testing.assert_close(found, (call(weight + step) - call(weight - step)) / 2e-6)
    with fm.use_backend("library"), pytest.raises(fm.errors.BackendError, match="forward-mode"):
        torch.func.jvp(call, (weight,), (tangent,))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # PyTorch's own jvp
@everywhere
def test_dual_tensors_keep_their_tangents(name):
    """No transform is on the stack here: the level alone tells. float32, which a kernel would take."""
    x, weight, bias = inputs(name)
    tangent = torch.randn_like(weight)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, tangent)
        found = torch.autograd.forward_ad.unpack_dual(FACES[name](x, dual, bias)).tangent
        found = found.clone()
    _, expected = torch.func.jvp(lambda w: FACES[name](x, w, bias), (weight,), (tangent,))
    torch.testing.assert_close(found, expected)


class Tagged(torch.Tensor):
    """A subclass as users write them."""


@everywhere
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_subclass_stays_one(name, position):
    args = inputs(name)
    tagged = [*args[:position], args[position].as_subclass(Tagged), *args[position + 1 :]]
    out = FACES[name](*tagged)
    assert type(out) is Tagged
    torch.testing.assert_close(out.as_subclass(torch.Tensor), FACES[name](*args))


@everywhere
@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("is_grad_enabled", [False, True])
def test_a_tensor_that_outlived_its_transform(name, position, is_grad_enabled):
    """Its type says plain tensor, its memory is another tensor's."""
    args = inputs(name)
    kept = []
    torch.func.grad(lambda t: kept.append(t * 1) or t.sum())(args[position])
    left = [*args[:position], kept[0], *args[position + 1 :]]
    with torch.set_grad_enabled(is_grad_enabled):
        args[0 if position else 1].requires_grad_(is_grad_enabled)
        torch.testing.assert_close(FACES[name](*left), FACES[name](*args))
