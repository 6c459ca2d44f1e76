"""nn.LinearCrossEntropyLoss in `fm.optimize_step`: a loss with Parameters, which may be the model's own."""

import pytest
import torch
from torch import nn

import fastmodel as fm
from fastmodel.optimize import measured, trials
from fastmodel.optimize.step import Training, step_of
from fastmodel.optimize.trial import Examples

pytestmark = pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="PyTorch has it from 2.12 on"
)


class Hidden(nn.Module):
    """What a language model's head would take."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(40, 12)
        self.layer = nn.Linear(12, 12)

    def forward(self, tokens):
        return self.layer(self.embedding(tokens)).tanh().flatten(0, 1)


def parts(is_tied):
    torch.manual_seed(3)
    model, loss = Hidden(), nn.LinearCrossEntropyLoss(12, 40, bias=True)
    if is_tied:
        loss.linear.weight = model.embedding.weight
    return model, loss, torch.optim.Adam({*model.parameters(), *loss.parameters()}, lr=0.01)


def batch():
    return torch.randint(0, 40, (3, 7)), torch.randint(0, 40, (21,))


@pytest.mark.parametrize("is_tied", [False, True])
def test_it_trains_like_the_given_step(is_tied, races):
    tokens, targets = batch()
    given = parts(is_tied)
    before = [p.clone() for p in given[1].parameters()]
    step = fm.optimize_step(*parts(is_tied), tokens, targets)
    assert type(step.loss) is fm.nn.LinearCrossEntropyLoss
    assert type(step.optimizer) is fm.optim.Adam
    assert (step.loss.linear.weight is step.model.embedding.weight) == is_tied
    assert all(torch.equal(*pair) for pair in zip(step.loss.parameters(), before, strict=True))
    for one in (step, given):
        for _ in range(10):
            one[2].zero_grad()
            one[1](one[0](tokens), targets).backward()
            one[2].step()
    for part in (0, 1):
        for p, q in zip(step[part].parameters(), given[part].parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
    (lever,) = (o for o in fm.plan_of(step.model).levers if o.name == "loss")
    checks = lever.verification.checks
    assert [check.tensor for check in checks] == [
        "output",
        "gradient of input",
        "gradient of linear.weight",
        "gradient of linear.bias",
    ]


def test_the_sandbox_steps_what_is_tied_once():
    model, loss, optimizer = parts(is_tied=True)
    built = measured._sandbox(model, Training(loss, optimizer, None))
    twin = built.model.embedding.weight
    assert built.training.loss.linear.weight is twin is not model.embedding.weight
    stepped = [p for g in built.training.optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in stepped} == {
        id(p) for m in (built.model, built.training.loss) for p in m.parameters()
    }


def test_gradients_do_not_pile_up():
    tokens, targets = batch()
    model, loss, _ = parts(is_tied=False)
    step = step_of(model, Examples((tokens,), {}), Training(loss, None, targets))
    found = []
    for _ in range(2):
        step()
        found.append(loss.linear.weight.grad.clone())
    torch.testing.assert_close(*found)


def test_a_wrong_gradient_of_the_head_is_rejected(races, monkeypatch):
    honest = fm.nn.LinearCrossEntropyLoss.forward

    def forward(self, input, target):
        value = honest(self, input, target)
        return value + 0.01 * (self.linear.weight - self.linear.weight.detach()).sum()

    monkeypatch.setattr(fm.nn.LinearCrossEntropyLoss, "forward", forward)
    step = fm.optimize_step(*parts(is_tied=False), *batch())
    lever = next(o for o in fm.plan_of(step.model).levers if o.name == "loss")
    assert not lever.is_pulled and "gradient of linear.weight" in lever.reason


def test_a_loss_of_several_dimensions_is_left(races):
    model, _, _ = parts(is_tied=False)
    loss = nn.LinearCrossEntropyLoss(12, 5, out_features=(2,))
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], lr=0.1)
    step = fm.optimize_step(model, loss, optimizer, batch()[0], torch.randint(5, (21, 2)))
    assert step.loss is loss
    (lever,) = (o for o in fm.plan_of(step.model).levers if o.name == "loss")
    assert lever.reason == "a loss of several dimensions is PyTorch's alone"


def test_the_bound_knows_the_terms_of_a_score():
    """Scores that cancel are as far off as their terms are large."""
    loss = nn.LinearCrossEntropyLoss(2, 2, bias=True)
    with torch.no_grad():
        loss.linear.weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 0.5]]))
        loss.linear.bias.copy_(torch.tensor([-3.0, 0.0]))
    output = torch.tensor([[100.0, 100.0]])
    assert trials._largest_score(loss, output) == 203
    assert trials._largest_score(nn.CrossEntropyLoss(), output) == 100
