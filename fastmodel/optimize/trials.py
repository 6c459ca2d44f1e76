"""What is tried alone before the whole step is: single places, the loss, the optimizer.

Numbers before times: a candidate that fails its float64 check is not timed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from fastmodel.errors import BackendError
from fastmodel.optimize.budget import Budget
from fastmodel.optimize.calls import Call, pass_of
from fastmodel.optimize.evidence import Check, Verification
from fastmodel.optimize.forward import channels_last
from fastmodel.optimize.levers import fused_loss, fused_optimizer
from fastmodel.optimize.measure import race
from fastmodel.optimize.select import Candidate, Decision
from fastmodel.optimize.step import optimizer_over
from fastmodel.optimize.verify import Reference, compare, error_of, reference_of, verify

T = TypeVar("T")

MOST_TIME_S = 2.0
"""For the race of one candidate."""
_STEPS = 3


class Trials:
    """Decides about single candidates; equal ones at places of equal shape are timed once."""

    def __init__(self, budget: Budget, gain: float, device: torch.device) -> None:
        self._budget, self._gain, self._device = budget, gain, device
        self._known: dict[tuple, Decision] = {}

    def of_place(self, candidate: Candidate, with_last: bool) -> dict[bool, Decision]:
        """Forward and backward of one place at its captured input.

        Args:
            candidate: of the place, with its input.
            with_last: also with an image as input laid out channels_last.

        Returns:
            The decisions, by whether images are channels_last.
        """
        if candidate.call is not None:
            return self._of_calls(candidate, candidate.call, with_last)
        found, refusal = self._answered(lambda: reference_of(candidate))
        if found is None:
            return dict.fromkeys([False, True][: 1 + with_last], Decision(False, refusal))
        assert candidate.x is not None
        decided = {False: self._of_layout(candidate, found)}
        if with_last:
            leaf = channels_last(candidate.x.detach()).requires_grad_(candidate.x.requires_grad)
            is_other = leaf.stride() != candidate.x.stride()
            other = replace(candidate, x=leaf)
            decided[True] = self._of_layout(other, found) if is_other else decided[False]
        return decided

    def _of_calls(self, candidate: Candidate, call: Call, with_last: bool) -> dict[bool, Decision]:
        """Forward and backward of the module in whose forward values meet."""
        decided = {False: self._of_call(candidate, call)}
        if with_last:
            other = call.map(channels_last)
            decided[True] = (
                decided[False] if other.key == call.key else self._of_call(candidate, other)
            )
        return decided

    def _of_call(self, candidate: Candidate, call: Call) -> Decision:
        found, refusal = self._answered(lambda: verify(replace(candidate, call=call)))
        if found is None:
            return Decision(False, refusal)
        plain, fused = candidate.plain[0], candidate.fused
        key = (*_built(candidate), call.key)
        return self._raced(key, found, lambda: (pass_of(plain, call), pass_of(fused, call)))

    def _raced(
        self,
        key: tuple,
        found: Verification,
        passes: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
    ) -> Decision:
        """What was verified is timed, unless it failed; equal candidates once."""
        if not found.passed:
            return Decision(False, f"failed its float64 check: {found}", None, found)
        if key not in self._known:
            self._known[key] = self._timed(*passes())
        timed = self._known[key]
        return Decision(timed.is_accepted, timed.reason, timed.measurement, found)

    def _of_layout(self, candidate: Candidate, reference: Reference) -> Decision:
        found, refusal = self._answered(lambda: compare(candidate, reference))
        if found is None:
            return Decision(False, refusal)
        x = candidate.x
        plain, fused = candidate.plain, candidate.fused
        return self._raced(
            _key(candidate),
            found,
            lambda: (_pass_of(plain, plain[0], x), _pass_of(fused, fused, x)),
        )

    def of_loss(self, loss: nn.Module, output: torch.Tensor, targets: Any) -> Decision:
        """Value and gradients of a loss on the model's own output."""
        ours = fused_loss(loss)
        found, refusal = self._answered(lambda: _verify_loss(loss, ours, output, targets))
        if found is None:
            return Decision(False, refusal)
        if not found.passed:
            return Decision(False, f"failed its float64 check: {found}", None, found)

        def run_of(module: nn.Module) -> Callable[[], object]:
            leaf = output.detach().requires_grad_()
            wanted = [leaf, *(p for p in module.parameters() if p.requires_grad)]
            return lambda: torch.autograd.grad(module(leaf, targets), wanted)

        timed = self._timed(run_of(loss), run_of(ours))
        return Decision(timed.is_accepted, timed.reason, timed.measurement, found)

    def of_optimizer(self, optimizer: torch.optim.Optimizer) -> Decision:
        """Steps of an optimizer over copies of its parameters, with the gradients that they have."""
        found, refusal = self._answered(lambda: _verify_optimizer(optimizer))
        if found is None:
            return Decision(False, refusal)
        if not found.passed:
            return Decision(False, f"failed its float64 check: {found}", None, found)
        plain = _over_copies(optimizer, lr=0.0)
        ours = fused_optimizer(_over_copies(optimizer, lr=0.0))
        timed = self._timed(plain.step, ours.step)
        return Decision(timed.is_accepted, timed.reason, timed.measurement, found)

    def _answered(self, check: Callable[[], T]) -> tuple[T | None, str]:
        """What a check says, or None and why it says nothing."""
        if self._budget.left_s() <= 0:
            return None, self._out_of_time()
        try:
            return check(), ""
        except BackendError:  # a backend asked for by name is not silently replaced
            raise
        except Exception as error:  # whatever a candidate raises, PyTorch's own form stays
            lines = str(error).strip().splitlines() or [""]
            return None, f"raises on the captured input ({type(error).__name__}: {lines[0][:120]})"

    def _timed(self, plain: Callable[[], object], ours: Callable[[], object]) -> Decision:
        part = self._budget.part(MOST_TIME_S)
        found = race(plain, ours, part, self._gain, self._device)
        if found is None:
            return Decision(False, self._out_of_time())
        if found.low > self._gain:
            return Decision(True, f"wins: {found}", found)
        if found.high < 1.0:
            return Decision(False, f"slower than PyTorch: {found}", found)
        return Decision(False, f"no certain gain: {found}", found)

    def _out_of_time(self) -> str:
        return f"not measured: budget_s={self._budget.budget_s:g} was spent before"


def _key(candidate: Candidate) -> tuple:
    x = candidate.x
    assert x is not None
    return (*_built(candidate), tuple(x.shape), x.stride(), x.dtype, x.requires_grad)


def _built(candidate: Candidate) -> tuple:
    wants = tuple(p.requires_grad for p in candidate.plain.parameters())
    return candidate.pattern, repr(candidate.plain), repr(candidate.fused), wants


def _pass_of(module: nn.Module, anchor: nn.Module, x: torch.Tensor | None) -> Callable[[], None]:
    """Forward and, where anything wants a gradient, backward; the Parameters' `.grad` is not touched."""
    assert x is not None
    leaf = x.detach().requires_grad_(x.requires_grad)
    wanted = [t for t in (leaf, *anchor.parameters()) if t.requires_grad]
    grads: list[torch.Tensor] = []

    def run() -> None:
        out = module(leaf)
        if not wanted:
            return
        if not grads:
            grads.append(torch.randn_like(out))
        torch.autograd.grad(out, wanted, grads[0])

    return run


def _verify_loss(
    loss: nn.Module, ours: nn.Module, output: torch.Tensor, targets: Any
) -> Verification:
    """Value and gradients; one rounding of the largest score moves either by about eps times it."""

    def values(module: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        leaf = output.detach().to(dtype).requires_grad_()
        is_floating = isinstance(targets, torch.Tensor) and targets.is_floating_point()
        value = module(leaf, targets.to(dtype) if is_floating else targets)
        wanted = {"input": leaf}
        wanted.update((n, p) for n, p in module.named_parameters() if p.requires_grad)
        grads = torch.autograd.grad(value, list(wanted.values()), torch.ones_like(value))
        named = (f"gradient of {name}" for name in wanted)
        return {"output": value.detach(), **dict(zip(named, grads, strict=True))}

    expected = values(copy.deepcopy(loss).double(), torch.float64)
    eps = torch.finfo(output.dtype).eps
    floor = 2 * eps * (1 + _largest_score(loss, output))
    checks = []
    plain, fused = values(loss, output.dtype), values(ours, output.dtype)
    for name, want in expected.items():
        torch_error = error_of(plain[name], want)
        checks.append(
            Check(name, error_of(fused[name], want), torch_error, 2 * torch_error + floor)
        )
    return Verification(tuple(checks))


@torch.no_grad()
def _largest_score(loss: nn.Module, output: torch.Tensor) -> float:
    """Of the scores that a loss compares; where a layer of its own makes them, of their absolute terms."""
    scores = output.detach().abs()
    layer = getattr(loss, "linear", None)
    if isinstance(layer, nn.Linear):
        bias = None if layer.bias is None else layer.bias.abs()
        scores = nn.functional.linear(scores, layer.weight.abs(), bias)
    return scores.max().item()


def _verify_optimizer(optimizer: torch.optim.Optimizer) -> Verification:
    """Parameters after a few steps with given gradients; each step may round each of them once or twice."""
    plain, exact = _over_copies(optimizer), _over_copies(optimizer, dtype=torch.float64)
    ours = fused_optimizer(_over_copies(optimizer))
    for _ in range(_STEPS):
        for one in (plain, exact, ours):
            one.step()
    checks = []
    for name, (a, b, want) in enumerate(
        zip(_parameters(plain), _parameters(ours), _parameters(exact), strict=True)
    ):
        torch_error = error_of(a.detach(), want.detach())
        bound = 2 * torch_error + 2 * _STEPS * torch.finfo(a.dtype).eps
        checks.append(
            Check(f"parameter {name}", error_of(b.detach(), want.detach()), torch_error, bound)
        )
    return Verification(tuple(checks))


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.numel()]


def _over_copies(
    optimizer: torch.optim.Optimizer, lr: float | None = None, dtype: torch.dtype | None = None
) -> torch.optim.Optimizer:
    """The optimizer over copies of its parameters, gradients and state."""
    twins: dict[torch.Tensor, torch.Tensor] = {}
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        twin = nn.Parameter(parameter.detach().to(dtype or parameter.dtype, copy=True))
        if parameter.grad is not None:
            twin.grad = parameter.grad.detach().to(twin.dtype, copy=True)
        twins[parameter] = twin
    made = optimizer_over(optimizer, twins, lr=lr)
    if dtype is not None:
        for state in made.state.values():
            for key, value in state.items():
                if torch.is_tensor(value) and value.is_floating_point() and value.dim():
                    state[key] = value.to(dtype)
    return made
