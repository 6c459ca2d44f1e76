"""The race of the benches: who takes part, who is left out and why, who is refused."""

from __future__ import annotations

import pytest
import race
import torch
from arms import AUTO, Arm, Contest, compiled
from ceilings import Ceilings

EXPECTED = [torch.linspace(-1, 1, 32, dtype=torch.float64)]
CEILINGS = Ceilings(500.0, 400.0, 200.0, 30.0, 40.0)


def arm(off: float = 0.0, is_ours: bool = False) -> Arm:
    values = [EXPECTED[0].float() + off]
    return Arm(lambda: values, lambda: values, is_ours)


def contest(**arms: Arm) -> Contest:
    return Contest({AUTO: arm(is_ours=True), **arms}, EXPECTED, 1, 10**6, 10**6)


def test_a_row_is_judged_against_the_fastest_right_arm():
    found = race.run("op", "case", "step", contest(torch=arm(), wrong=arm(off=0.1)), CEILINGS, 0.0)
    assert found.best_torch == "torch" and found.torch_arms == ["torch"]
    assert set(found.left_out) == {"wrong"} and "wrong numbers" in found.left_out["wrong"]
    assert found.flop_share == pytest.approx(found.gflop_per_s / 500)
    assert found.byte_share == pytest.approx(found.gb_per_s / 40)


def test_our_own_wrong_numbers_are_an_error():
    with pytest.raises(race.WrongNumbersError, match="cpu: result 0 is off by"):
        race.check(contest(cpu=arm(off=0.1, is_ours=True)))


def test_an_arm_that_does_not_compile_is_left_out_and_says_so(monkeypatch):
    def backend(graph, inputs):
        raise OSError("no compiler")

    original = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda call, **how: original(call, backend=backend, **how)
    )
    call = compiled(lambda: [EXPECTED[0].float() * 1])
    running, left_out = race.check(contest(torch=arm(), broken=Arm(call, call)))
    torch.compiler.reset()
    assert list(running) == [AUTO, "torch"]
    assert (
        left_out["broken"].startswith("does not compile: ") and "no compiler" in left_out["broken"]
    )


def test_the_ceiling_is_the_highest_of_what_was_measured():
    assert CEILINGS.gflop_per_s == 500 and CEILINGS.gb_per_s == 40
    assert Ceilings(None, 400.0, 200.0, 30.0, 40.0).gflop_per_s == 400
