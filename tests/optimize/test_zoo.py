"""`fm.optimize` on the models of support/zoo.py: same answers, same state, the plan expected."""

import copy
import io
import pickle

import pytest
import torch
from support import zoo
from support.by_rule import by_rule
from torch import nn
from torch.utils import _pytree as pytree

import fastmodel as fm


@pytest.fixture(params=zoo.ENTRIES, ids=str)
def entry(request):
    return request.param


@pytest.fixture
def inputs(entry):
    return entry.inputs()


@pytest.fixture
def model(entry, inputs):
    return entry.make()


def call(model, inputs):
    args = inputs if isinstance(inputs, tuple) else (inputs,)
    return model(*pytree.tree_map_only(torch.Tensor, torch.clone, args))


def floats(output):
    return [leaf for leaf in pytree.tree_leaves(output) if leaf.is_floating_point()]


def gradients(model, inputs):
    """The output, and the gradients of a sum that weighs every element differently."""
    model.zero_grad()
    torch.manual_seed(1)
    output = call(model, inputs)
    loss = sum(
        (t * torch.linspace(0.5, 1.5, t.numel()).view(t.shape)).sum() for t in floats(output)
    )
    loss.backward()
    return output, {name: p.grad for name, p in model.named_parameters()}


def assert_same(a, b):
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for x, y in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        # float32 sums of up to 200 products, taken in another order
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_plan(entry, model, inputs):
    plan = fm.plan_of(by_rule(model, inputs))
    assert {place.site: place.replacement for place in plan.swaps} == entry.swaps
    assert {place.site for place in plan.left} == set(entry.left)
    for place in plan.left:
        assert entry.left[place.site] in place.reason
        assert place.replacement is None
    assert "dropped" not in str(plan)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_outputs_and_gradients(entry, model, inputs, training):
    if training and not entry.is_deterministic:
        pytest.skip("training draws random numbers, whose order a memory layout may move")
    model.train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a fused dropout draws another mask
    fused = by_rule(model, inputs)
    expected, expected_gradients = gradients(model, inputs)
    found, found_gradients = gradients(fused, inputs)
    assert_same(expected, found)
    assert expected_gradients.keys() == found_gradients.keys()
    for name, gradient in expected_gradients.items():
        if gradient is None:
            assert found_gradients[name] is None, name
        else:
            torch.testing.assert_close(found_gradients[name], gradient, rtol=1e-4, atol=1e-4)


def test_the_original_is_left_as_it_was(model, inputs):
    model.train()
    model.get_submodule(next(iter(dict(model.named_children())))).eval()
    before = [(name, m, type(m), m.training, dict(vars(m))) for name, m in model.named_modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    generator = torch.get_rng_state()
    fused = by_rule(model, inputs)
    assert torch.equal(torch.get_rng_state(), generator)
    for (name, module, kind, mode, attributes), (name_now, now) in zip(
        before, model.named_modules(), strict=True
    ):
        assert (name, module, kind, mode) == (name_now, now, type(now), now.training)
        assert attributes == vars(now)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    modes = {name: module.training for name, module in fused.named_modules()}
    assert modes == {name: module.training for name, module in model.named_modules()}


def test_same_parameters_and_state_dict(entry, model, inputs):
    fused = by_rule(model, inputs)
    assert isinstance(fused, type(model)) and type(fused).__name__ == type(model).__name__
    for a, b in (
        (model.named_parameters(), fused.named_parameters()),
        (model.named_buffers(), fused.named_buffers()),
    ):
        a, b = list(a), list(b)
        assert [name for name, _ in a] == [name for name, _ in b]
        assert all(x is y for (_, x), (_, y) in zip(a, b, strict=True))
    assert list(model.state_dict()) == list(fused.state_dict())
    assert [name for name, _ in model.named_modules()] == [n for n, _ in fused.named_modules()]
    other = entry.make()
    for source, target in ((other, fused), (fused, other)):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        with torch.no_grad():
            for p in target.parameters():
                p.zero_()
        target.load_state_dict(torch.load(file, weights_only=True))
        for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_deepcopy_and_pickle(entry, model, inputs):
    if not entry.is_copyable:
        pytest.skip("PyTorch does not copy or pickle parametrized and pruned modules")
    fused = by_rule(model, inputs).eval()
    expected = call(fused, inputs)
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert_same(expected, call(twin, inputs))
        assert fm.plan_of(twin) == fm.plan_of(fused)
        assert list(twin.state_dict()) == list(fused.state_dict())
        with torch.no_grad():  # the copy's fused modules read the copy's parameters
            for p in twin.parameters():
                p.zero_()
        assert_same(expected, call(fused, inputs))
        zeroed = copy.deepcopy(model).eval()
        with torch.no_grad():
            for p in zeroed.parameters():
                p.zero_()
        assert_same(call(zeroed, inputs), call(twin, inputs))


def test_optimizing_twice_is_the_same(entry, model, inputs):
    once = by_rule(model, inputs)
    twice = by_rule(once, inputs)
    assert_same(call(once.eval(), inputs), call(twice.eval(), inputs))
    again = {place.site for place in fm.plan_of(twice).swaps}
    fused = {place.site for place in fm.plan_of(twice).left if place.reason == "already fused"}
    assert again | fused == set(entry.swaps)
