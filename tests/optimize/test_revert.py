"""`fm.revert`: the plain model again, with the weights as they are now."""

import copy
import io

import pytest
import torch
from support import zoo
from support.by_rule import by_rule
from torch import nn

import fastmodel as fm
from fastmodel.errors import InputError

ENTRIES = [e for e in zoo.ENTRIES if e.swaps]


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_every_module_is_what_it_was(entry):
    plain, inputs = entry.make(), entry.inputs()
    back = fm.revert(by_rule(plain, inputs))
    assert str(back) == str(plain)
    for (name, was), (name_now, now) in zip(
        plain.named_modules(), back.named_modules(), strict=True
    ):
        assert (name, type(was), was.training) == (name_now, type(now), now.training)
        assert not any(key.startswith("_fastmodel") for key in vars(now))
    pairs = zip(plain.named_parameters(), back.named_parameters(), strict=True)
    assert all(a == b and p is q for (a, p), (b, q) in pairs)
    with pytest.raises(InputError, match="carries no plan"):
        fm.plan_of(back)


@pytest.mark.parametrize("make", [zoo.lenet, zoo.Functional], ids=["sequential", "fx"])
def test_the_weights_are_those_of_now(make):
    x = torch.randn(4, 1, 12, 12)
    fused = by_rule(make(), x)
    other = {name: torch.randn_like(value) for name, value in fused.state_dict().items()}
    fused.load_state_dict(other, assign=True)
    fused.eval()
    back = fm.revert(fused)
    assert not any(m.training for m in back.modules())
    torch.testing.assert_close(back(x), fused(x), rtol=1e-4, atol=1e-3)  # values of about 100
    expected = make().eval()
    expected.load_state_dict(other)
    assert torch.equal(back(x), expected(x))


def test_of_a_copy_and_of_one_that_was_optimized_twice():
    x = torch.randn(4, 1, 12, 12)
    plain = zoo.lenet()
    fused = by_rule(by_rule(plain, x), x)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    for one in (fused, copy.deepcopy(fused), torch.load(file, weights_only=False)):
        assert str(fm.revert(one)) == str(plain)
    with torch.no_grad():
        for p in fused.parameters():
            p.zero_()
    assert not fm.revert(fused)[0].weight.any()


def test_what_was_put_on_it_since_stays():
    x = torch.randn(4, 1, 12, 12)
    fused = by_rule(zoo.lenet(), x).eval()
    heard = []
    fused[0].register_forward_hook(lambda *_: heard.append(0))
    fused[4] = nn.Tanh()
    back = fm.revert(fused)
    back(x)
    assert heard == [0] and isinstance(back[4], nn.Tanh) and isinstance(back[1], nn.ReLU)


def test_bad_input():
    x = torch.randn(4, 1, 12, 12)
    with pytest.raises(InputError, match="carries no plan"):
        fm.revert(zoo.lenet())
    with pytest.raises(InputError, match="wrapped in OptimizedModule; pass the module inside"):
        fm.revert(torch.compile(by_rule(zoo.lenet(), x), backend="eager"))
