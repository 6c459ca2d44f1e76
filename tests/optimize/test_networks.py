"""Whole networks: outputs and gradients against float64, 20 steps of training together, state both ways.

Bounds are derived, not chosen: how far float32's own rounding takes the very same model. A twin whose
weights are off by a rounding or two shows how far an answer moves for no fault of anybody's (ReLU and
max-pool have jumps in their derivatives, batch norm divides by small variances, training amplifies).
"""

import copy

import pytest
import torch
from support import zoo_models, zoo_transformers
from support.by_rule import by_rule
from support.zoo_models import TEST, call
from torch import nn
from torch.utils import _pytree as pytree

import fastmodel as fm
from fastmodel.optimize.levers import Built, pull
from fastmodel.optimize.step import Training
from fastmodel.optimize.verify import error_of

NETWORKS = (*zoo_models.NETWORKS, *zoo_transformers.NETWORKS)
SWAPPED = {  # at the least; the others have nothing to fuse and are to come through as they are
    "seed-cnn": 3,
    "lenet": 4,
    "alexnet": 7,
    "vgg-11": 8,
    "vgg-16": 13,
    "u-net": 10,
    "vit": 2,
    "gpt": 2,
    "conv-rnn": 2,
    "dict": 3,
    "tuple": 4,
    "tied-autoencoder": 1,
}
STEPS = 20
EPS = torch.finfo(torch.float32).eps


@pytest.fixture(params=NETWORKS, ids=str)
def network(request):
    if request.param.name.startswith("transformers"):
        pytest.importorskip("transformers", reason="models from configurations need transformers")
    return request.param


@pytest.fixture
def batch(network):
    return network.batch(TEST)


@pytest.fixture
def model(network, batch):
    return network.make(TEST)


def channels_last(model):
    return pull(Built(model, Training()), ["channels_last"]).model


def values_of(model, loss, inputs, targets):
    """Output and gradients, by name."""
    model.zero_grad(set_to_none=True)
    output = call(model, inputs)
    loss(output, targets).backward()
    leaves = [t for t in pytree.tree_leaves(output) if torch.is_tensor(t) and t.is_floating_point()]
    values = {f"output {i}": leaf.detach() for i, leaf in enumerate(leaves)}
    values |= {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return values


def disturbed(model):
    """A copy whose weights are off by about 2 eps."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for p in twin.parameters():
            p.mul_(1 + 2 * EPS * torch.randn_like(p))
    return twin


def as_float64(value):
    def convert(t):
        return t.double() if t.is_floating_point() else t

    return pytree.tree_map_only(torch.Tensor, convert, value)


@pytest.mark.parametrize("layout", ["as it is", "channels_last"])
def test_outputs_and_gradients(network, batch, model, layout):
    loss = network.loss()
    fused = by_rule(model, batch.inputs)
    assert len(fm.plan_of(fused).swaps) >= SWAPPED.get(network.name, 0)
    assert "dropped" not in str(fm.plan_of(fused))
    if layout == "channels_last":
        fused = channels_last(fused)
    found = values_of(fused, loss, batch.inputs, batch.targets)
    plain = values_of(model, loss, batch.inputs, batch.targets)
    exact = copy.deepcopy(model).double()
    inputs, targets = as_float64(batch.inputs), as_float64(batch.targets)
    moved = [values_of(disturbed(exact), loss, inputs, targets) for _ in range(4)]
    reference = values_of(exact, loss, inputs, targets)
    assert reference.keys() == plain.keys() == found.keys()
    depth = sum(1 for m in model.modules() if not any(m.children()))
    for name, want in reference.items():
        conditioning = max(error_of(other[name], want) for other in moved)
        bound = 4 * max(error_of(plain[name], want), conditioning) + 4 * EPS * (depth + 1)
        # A gradient that vanishes by itself (a bias before batch norm) has no digits to compare.
        if want.abs().max() > 1e-9:
            assert error_of(found[name], want) <= bound, name


def train(model, loss, optimizer, batch):
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = loss(call(model, batch.inputs), batch.targets)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return torch.tensor(losses, dtype=torch.float64)


def test_twenty_steps_stay_together(network, batch, model):
    name, options = network.optimizer, {"lr": 0.02 if network.optimizer == "SGD" else 1e-3}
    fused = by_rule(copy.deepcopy(model), batch.inputs)
    twins = [disturbed(model) for _ in range(2)]
    loss = network.loss()
    kind = getattr(torch.optim, name)
    plain = train(model, loss, kind(model.parameters(), **options), batch)
    apart = [train(t, loss, kind(t.parameters(), **options), batch) - plain for t in twins]
    if type(loss) is nn.CrossEntropyLoss:
        loss = fm.nn.CrossEntropyLoss()
    found = train(fused, loss, getattr(fm.optim, name)(fused.parameters(), **options), batch)
    assert plain[-1] < plain[0]
    scale = plain.abs().max()
    amplified = max(one.abs().max() for one in apart) / scale
    bound = 10 * max(amplified, EPS * STEPS)
    assert (found - plain).abs().max() / scale <= bound


def test_the_state_goes_both_ways(network, batch, model):
    fused = by_rule(model, batch.inputs)
    assert list(fused.state_dict()) == list(model.state_dict())
    assert [n for n, _ in fused.named_modules()] == [n for n, _ in model.named_modules()]
    pairs = zip(model.parameters(), fused.parameters(), strict=True)
    assert all(p is q for p, q in pairs)
    other = network.make(TEST)
    for source, target in ((other, fused), (fused, network.make(TEST))):
        target.load_state_dict(source.state_dict())
        for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True):
            assert torch.equal(a, b)


def test_revert_gives_the_class_tree_back(network, batch, model):
    assert str(fm.revert(by_rule(model, batch.inputs))) == str(model)
