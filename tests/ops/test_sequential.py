"""fm.nn.Sequential answers as nn.Sequential does: called link by link, captured or replayed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.ops import chain


def cnn(dropout: float = 0.5) -> list[nn.Module]:
    """The running example, small; Winograd's and the direct kernels, a transposed flatten, a plain linear."""
    return [
        fm.nn.ConvReLUMaxPool2d(1, 32, 3),
        nn.Identity(),
        fm.nn.ConvReLUMaxPool2d(32, 32, 3),
        nn.Flatten(),
        fm.nn.LinearReLUDropout(32 * 2 * 2, 24, p=dropout),
        nn.Linear(24, 10),
    ]


def mlp() -> list[nn.Module]:
    return [
        fm.nn.LinearGELU(20, 16),
        fm.nn.LinearSiLU(16, 16),
        fm.nn.LinearTanh(16, 12),
        fm.nn.LinearSigmoid(12, 12),
        fm.nn.LinearReLU(12, 8),
    ]


def convs() -> list[nn.Module]:
    return [
        fm.nn.ConvReLU2d(3, 8, 3, padding=1, bias=False),
        fm.nn.ConvReLU2d(8, 8, 5, stride=2, padding=2),
        fm.nn.ConvReLUMaxPool2d(8, 16, 3, pool_kernel_size=3, pool_stride=2, pool_padding=1),
    ]


MODELS = {"cnn": (cnn, (5, 1, 14, 14)), "mlp": (mlp, (7, 20)), "convs": (convs, (2, 3, 12, 12))}


def pair(layers: list[nn.Module]) -> tuple[fm.nn.Sequential, nn.Sequential]:
    """The drop-in and PyTorch's, with parameters of their own."""
    return fm.nn.Sequential(*layers), nn.Sequential(*copy.deepcopy(layers))


def is_chained(out: torch.Tensor) -> bool:
    return "ChainBackward" in type(out.grad_fn).__name__


def plans_of(model: nn.Module) -> list[chain.Plan]:
    return list(vars(model).get("_fastmodel_plans", {}).values())


def step(model: nn.Module, x: torch.Tensor, seed: int = 0) -> list[torch.Tensor]:
    """Output and gradients of one training step."""
    model.zero_grad()
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
    torch.manual_seed(seed)
    out = model(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    return [out, x.grad, *[p.grad for p in model.parameters()]]


def assert_close(found: list, expected: list, depth: int = 4096) -> None:
    """Sums of `depth` terms in another order at most: the unfused linear layer has a kernel of its own."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape and a.dtype == b.dtype and a.stride() == b.stride()
            eps, scale = torch.finfo(a.dtype).eps, max(1.0, b.detach().abs().max().item())
            torch.testing.assert_close(a, b, rtol=4 * eps, atol=4 * eps * depth**0.5 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("wants_x", [False, True], ids=["", "grad_x"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_as_pytorch(name, wants_x, dtype):
    layers, shape = MODELS[name]
    torch.manual_seed(0)
    ours, theirs = pair([layer.to(dtype) for layer in layers()])
    for seed in range(4):  # captured, replayed and captured backwards, replayed
        x = torch.randn(shape, dtype=dtype).requires_grad_(wants_x)
        found, expected = step(ours, x, seed), step(theirs, x, seed)
        assert is_chained(found[0]) and not is_chained(expected[0])
        assert_close(found, expected)
        with torch.no_grad():
            for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
                p -= 0.1 * p.grad
                q.copy_(p)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_is_replayed(name):
    layers, shape = MODELS[name]
    ours = fm.nn.Sequential(*layers())
    if fm.env.native_missing():
        pytest.skip(fm.env.native_missing())
    for seed in range(3):
        step(ours, torch.randn(shape), seed)
    (plan,) = plans_of(ours)
    assert plan.forward is not None and len(plan.forward.calls) >= 3
    (program,) = plan.backward.values()
    assert program is not None


def test_random_numbers_are_those_of_pytorchs_sequential():
    ours, theirs = pair(cnn())
    x = torch.randn(5, 1, 14, 14)
    for model in (ours, theirs):
        model.draws = []
        torch.manual_seed(3)
        for _ in range(3):
            model(x)
            model.draws.append(torch.rand(()).item())
    assert ours.draws == theirs.draws


def test_two_forwards_before_their_backwards():
    ours, theirs = pair(cnn())
    a, b = torch.randn(5, 1, 14, 14), torch.randn(5, 1, 14, 14)
    for _ in range(3):
        found = []
        for model in (ours, theirs):
            model.zero_grad()
            torch.manual_seed(0)
            first, second = model(a), model(b)
            (first.square().sum() + second.sum()).backward()
            found.append([first, second, *[p.grad for p in model.parameters()]])
        assert_close(*found)


def test_backward_twice_through_a_kept_graph():
    ours, theirs = pair(cnn())
    x = torch.randn(5, 1, 14, 14)
    for _ in range(3):
        found = []
        for model in (ours, theirs):
            model.zero_grad()
            torch.manual_seed(0)
            loss = model(x).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
            found.append([p.grad for p in model.parameters()])
        assert_close(*found)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("calls", [1, 3], ids=["captured", "replayed"])
def test_second_derivatives(calls, dtype):
    ours, theirs = pair([m.to(dtype) for m in cnn()])
    x = torch.randn(3, 1, 14, 14, dtype=dtype, requires_grad=True)
    for seed in range(calls):
        found = []
        for model in (ours, theirs):
            model.zero_grad()
            torch.manual_seed(seed)
            (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            grad.square().sum().backward()
            found.append([grad, *[p.grad for p in model.parameters()]])
            x.grad = None
        assert_close(*found)


@pytest.mark.parametrize("frozen", [(0,), (0, 2), (2,), (4, 5), (0, 2, 4)], ids=str)
def test_frozen_layers(frozen):
    ours, theirs = pair(cnn())
    for model in (ours, theirs):
        for index in frozen:
            model[index].requires_grad_(False)
    x = torch.randn(5, 1, 14, 14)
    for seed in range(3):
        assert_close(step(ours, x, seed), step(theirs, x, seed))
    for model in (ours, theirs):  # thawed on the way
        model.requires_grad_(True)
    assert_close(step(ours, x), step(theirs, x))


def test_changes_between_steps():
    """Whatever a plan was made for and no longer holds: modes, options, sizes, layouts, parameters."""
    ours, theirs = pair(cnn())
    x = torch.randn(5, 1, 14, 14)

    def set_p(model):
        model[4].p = 0.1

    def replace(model):
        model[5].weight = nn.Parameter(model[5].weight.detach() * 2)

    def reassign(model):
        model[0].weight.data = model[0].weight.data.flip(2)

    def drop_bias(model):
        model[5].bias = None

    def stride(model):
        model[2].stride = (2, 2)
        model[4].in_features = 32
        model[4].weight = nn.Parameter(model[4].weight.detach()[:, :32].clone())

    changes = [
        lambda model: None,  # the plan that must not outlive what follows
        lambda model: model.eval(),
        lambda model: model.train(),
        set_p,
        replace,
        reassign,
        drop_bias,
        lambda model: model.to(memory_format=torch.channels_last),
        stride,
        lambda model: model.double(),
    ]
    for change in changes:
        for model in (ours, theirs):
            change(model)
        x = x.to(ours[0].weight.dtype)
        for seed in range(3):
            assert_close(step(ours, x, seed), step(theirs, x, seed))


def test_inputs_of_other_sizes_and_layouts():
    ours, theirs = pair(cnn())
    x = torch.randn(6, 1, 14, 14)
    wide = torch.randn(6, 1, 28, 28)
    inputs = [
        x,
        x[:1],
        x[::2],
        x[:3],
        x.transpose(2, 3),
        wide[:, :, ::2, ::2],
        wide[:, :, :14, :14],
    ]
    for _ in range(3):
        for value in inputs:
            assert_close(step(ours, value), step(theirs, value))


def test_the_number_of_plans_is_bounded():
    ours, theirs = pair(mlp())
    for size in range(1, chain.MOST_PLANS + 4):
        x = torch.randn(size, 20)
        assert_close(step(ours, x), step(theirs, x))
    assert len(plans_of(ours)) == chain.MOST_PLANS


def test_hooks_are_called():
    ours = fm.nn.Sequential(*cnn())
    seen = []
    handle = ours[2].register_forward_hook(lambda *_: seen.append("forward"))
    x = torch.randn(5, 1, 14, 14)
    step(ours, x)
    assert seen == ["forward"]
    handle.remove()
    ours[4].register_full_backward_hook(lambda *_: seen.append("backward"))
    step(ours, x)
    assert seen == ["forward", "backward"]
    ours[0].weight.register_hook(lambda grad: seen.append("weight"))
    step(ours, x)
    assert seen[-1] == "weight"


def test_parts_that_are_no_links_stand_between_chains():
    layers = [*mlp()[:2], nn.LayerNorm(16), *mlp()[2:]]
    ours, theirs = pair(layers)
    x = torch.randn(7, 20)
    for seed in range(3):
        found, expected = step(ours, x, seed), step(theirs, x, seed)
        assert is_chained(found[0])
        assert_close(found, expected)
    assert len(plans_of(ours)) == 2


@pytest.mark.parametrize("backend", ["reference", "library", "cpu"])
def test_backends_by_name(backend):
    if fm.env.native_missing() and backend != "reference":
        pytest.skip(fm.env.native_missing())
    ours, theirs = pair(cnn())
    x = torch.randn(5, 1, 14, 14)
    for seed in range(3):
        with fm.use_backend(backend):
            assert_close(step(ours, x, seed), step(theirs, x, seed))


def test_a_backend_by_name_is_not_replayed_by_another():
    ours = fm.nn.Sequential(*cnn())
    x = torch.randn(5, 1, 14, 14)
    for seed in range(3):
        step(ours, x, seed)
    with fm.use_backend("cuda"), pytest.raises(fm.errors.BackendError, match="cuda"):
        ours(x)
    out = ours(x).sum()
    with fm.use_backend("cuda"), pytest.raises(fm.errors.BackendError, match="cuda"):
        out.backward()


def test_not_chained_where_somebody_looks():
    ours = fm.nn.Sequential(*cnn())
    x = torch.randn(5, 1, 14, 14)
    with torch.no_grad():
        assert ours(x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_chained(ours(x))
    with torch.autograd.forward_ad.dual_level():
        assert not is_chained(ours(x))
    with torch.profiler.profile() as profile:
        assert not is_chained(ours(x))
    assert any("conv_relu_maxpool" in event.key for event in profile.key_averages())
    large = torch.randn(chain.MOST_INPUT_ELEMENTS // 20 + 1, 20)
    assert not is_chained(fm.nn.Sequential(*mlp())(large))
    assert not is_chained(fm.nn.Sequential(fm.nn.LinearReLU(20, 4), nn.Linear(4, 4))(large[:3]))
    for parameter in ours.parameters():
        parameter.requires_grad_(False)
    assert ours(x).grad_fn is None


def test_compiles_without_a_break():
    ours, theirs = pair(mlp())
    x = torch.randn(7, 20)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    assert_close([compiled(x)], [theirs(x)])


def test_transforms():
    ours, theirs = pair(mlp())
    x = torch.randn(6, 20)
    per_sample = torch.func.vmap(lambda row: theirs(row[None])[0])
    assert_close([torch.func.vmap(lambda row: ours(row[None])[0])(x)], [per_sample(x)])


def test_many_gradients_at_once():
    ours, theirs = pair(mlp())
    x = torch.randn(7, 20, requires_grad=True)
    many = torch.eye(8)[:, None].expand(8, 7, 8)
    for _ in range(3):
        found = [
            torch.autograd.grad(model(x), x, many, is_grads_batched=True)[0]
            for model in (ours, theirs)
        ]
        assert_close([found[0]], [found[1]])


def test_hooks_on_saved_tensors():
    """Among them such as lay out anew what was saved."""
    ours, theirs = pair(cnn())
    for model in (ours, theirs):
        model.to(memory_format=torch.channels_last)
    x = torch.randn(5, 1, 14, 14)

    def pack(tensor):
        return tensor.clone(memory_format=torch.contiguous_format)

    for seed in range(3):
        assert_close(step(ours, x, seed), step(theirs, x, seed))
    for seed in range(3):
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            found = step(ours, x, seed)
        for a, b in zip(found, step(theirs, x, seed), strict=True):
            if a is not None:  # gradients are laid out as what was unpacked
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_a_saved_input_that_changed_is_an_error():
    ours = fm.nn.Sequential(*cnn())
    for _ in range(3):
        x = torch.randn(5, 1, 14, 14)
        out = ours(x)
        x.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_the_output_may_change_where_no_derivative_needs_it():
    ours = fm.nn.Sequential(*cnn())
    x = torch.randn(5, 1, 14, 14)
    for _ in range(3):
        (ours(x).mul_(2)).sum().backward()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_what_is_not_finite(value):
    """Winograd's kernels refuse it, also when replayed: their sums would make NaN of an infinity."""
    ours, theirs = pair(cnn()[:3])
    x = torch.randn(5, 1, 14, 14)
    for model in (ours, theirs):
        with torch.no_grad():
            model[2].weight[:, 0].abs_()
    for seed in range(3):
        assert_close(step(ours, x, seed), step(theirs, x, seed))
    for model in (ours, theirs):
        with torch.no_grad():
            model[0].bias[0] = value
    for a, b in zip(step(ours, x), step(theirs, x), strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, equal_nan=True)
    for model in (ours, theirs):
        with torch.no_grad():
            model[0].bias[0] = 0
    assert_close(step(ours, x), step(theirs, x))


def test_copies_and_pickles_and_slices():
    ours, theirs = pair(cnn())
    x = torch.randn(5, 1, 14, 14)
    for _ in range(3):
        step(ours, x)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is fm.nn.Sequential and not plans_of(twin)
        assert_close(step(twin, x), step(theirs, x))
    assert type(ours[:3]) is fm.nn.Sequential
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours[:3](x), theirs[:3](x))


def test_bad_input_is_the_ops_own_error():
    ours = fm.nn.Sequential(*cnn())
    with pytest.raises(fm.errors.InputError, match="conv_relu_maxpool: weight expects 1 input"):
        ours(torch.randn(5, 2, 14, 14))
    for _ in range(3):
        step(ours, torch.randn(5, 1, 14, 14))
    with pytest.raises(fm.errors.InputError, match="conv_relu_maxpool: weight expects 1 input"):
        ours(torch.randn(5, 2, 14, 14))
    with pytest.raises(fm.errors.InputError, match="x is float64"):
        ours(torch.randn(5, 1, 14, 14, dtype=torch.float64))


def test_shared_parameters_sum():
    layers = [fm.nn.LinearReLU(8, 8), fm.nn.LinearTanh(8, 8), fm.nn.LinearGELU(8, 8)]
    ours, theirs = pair(layers)
    for model in (ours, theirs):
        model[2].weight = model[0].weight
    x = torch.randn(6, 8)
    for seed in range(4):
        assert_close(step(ours, x, seed), step(theirs, x, seed))


def test_parameters_tied_and_untied_on_the_way():
    """What was learnt of shared memory does not hold once it is shared no more, and the other way round."""
    layers = [fm.nn.LinearReLU(8, 8), fm.nn.LinearTanh(8, 8), fm.nn.LinearGELU(8, 8)]
    ours, theirs = pair(layers)
    x = torch.randn(6, 8)

    def tie(model):
        model[2].weight = model[0].weight

    def untie(model):
        model[2].weight = nn.Parameter(model[1].weight.detach().clone())

    def alias(model):
        model[2].weight.data = model[0].weight.data

    for change in (tie, untie, alias, untie):
        change(ours)
        change(theirs)
        for seed in range(3):
            assert_close(step(ours, x, seed), step(theirs, x, seed))
