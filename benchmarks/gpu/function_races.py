"""Races of the ops that are functions: forward and backward together, ours against PyTorch's forms of the
same.

What an op is and what it stands for is `function_arms.FUNCTIONS`; an op that is not there yet gives a line
that says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import arms as op_arms
import torch
from function_arms import FUNCTIONS
from measure import AUTO, Arm, Goal, Race
from records import Line
from torch import Tensor

import fastmodel as fm

_UNDECIDED = 1e-4
"""In float32; of 16 bits, values within some roundings of one another."""

Make = Callable[[int], tuple]
"""From a number of rows (or images) to an op's arguments, on the device."""


@dataclass(frozen=True)
class Work:
    """One line to be measured."""

    op: str
    case: str
    make: Make
    rows: int
    checked_rows: int | None = None
    """The numbers are checked with so few rows, where float64 of all would not fit; None for all."""
    flops: float = 0
    size_bytes: float = 0
    goals: Sequence[Goal] = ()
    has_memory: bool = False
    is_compiled: bool = True
    others: dict[str, Callable] = field(default_factory=dict)
    """Further arms that are not ours, by name: called as the op's plain form is."""


def race_of(work: Work) -> Race:
    """The race, with its tensors made.

    Raises:
        LookupError: there is no such op.
    """
    if work.op not in FUNCTIONS:
        raise LookupError(f"there is no op {work.op} here")
    function = FUNCTIONS[work.op]
    args = work.make(work.rows)
    checked = args if work.checked_rows is None else work.make(work.checked_rows)
    found = {AUTO: _ours(function, args, checked, None)}
    for name in op_arms._backends(work.op):
        found[name] = _ours(function, args, checked, name)
    found["torch"] = _theirs(function.plain, function, args, checked)
    if work.is_compiled:
        compiled = torch.compile(function.plain, dynamic=False)
        found["torch.compile"] = _theirs(compiled, function, args, checked)
    for name, call in work.others.items():
        found[name] = _theirs(call, function, args, checked)
    return Race(
        Line(work.op, work.case),
        found,
        expected(work.op, checked),
        work.flops,
        work.size_bytes,
        work.goals,
        work.has_memory,
    )


def _ours(function, args: tuple, checked: tuple, backend: str | None) -> Arm:
    def under(call: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
        def run():
            scope = contextlib.nullcontext() if backend is None else fm.use_backend(backend)
            with scope:
                return call()

        return run

    run = training(function.face, leaves(args, function))
    answer = training(function.face, leaves(checked, function), _decided(function, checked))
    return Arm(under(run), under(answer), is_ours=True)


def _theirs(call: Callable, function, args: tuple, checked: tuple) -> Arm:
    answer = training(call, leaves(checked, function), _decided(function, checked))
    return Arm(training(call, leaves(args, function)), answer)


def leaves(args: tuple, function, dtype: torch.dtype | None = None) -> tuple:
    """The arguments with each floating tensor a leaf over the same memory.

    Constants want no gradient, and are copies: running statistics are written.
    """

    def leaf(position, value):
        if not (isinstance(value, Tensor) and value.is_floating_point()):
            return value
        is_constant = position in function.constants
        made = value.detach().to(dtype or value.dtype, copy=is_constant)
        return made.requires_grad_(not is_constant)

    return tuple(leaf(position, value) for position, value in enumerate(args))


def training(
    call: Callable, args: tuple, decided: Tensor | None = None
) -> Callable[[], list[Tensor]]:
    """Outputs and the gradients of all leaves, for the same random gradients coming in each time.

    Args:
        call: the op.
        args: as `leaves` gives them.
        decided: where the first output's gradient is not 0; None for everywhere.
    """
    wanted = [leaf for leaf in args if isinstance(leaf, Tensor) and leaf.requires_grad]
    grads: list[Tensor] = []

    def run() -> list[Tensor]:
        result = call(*args)
        outs = list(result) if isinstance(result, tuple) else [result]
        if not grads:
            grads.extend(map(_incoming, outs))
            if decided is not None:
                grads[0].mul_(decided)
        return [*outs, *torch.autograd.grad(outs, wanted, grads)]

    return run


def _incoming(out: Tensor) -> Tensor:
    """Sixteenths, which every dtype has exactly; 1 for a scalar."""
    generator = torch.Generator(out.device).manual_seed(1)
    drawn = torch.randint(-16, 17, out.shape, generator=generator, device=out.device)
    values = drawn.to(out.dtype) / 8 if out.dim() else torch.ones_like(out)
    return torch.empty_like(out).copy_(values)


def _decided(function, args: tuple) -> Tensor | None:
    """Where rounding cannot turn a ReLU, or the choice of a pool's maximum, over."""
    if function.margin is None:
        return None
    with torch.no_grad():
        margin = function.margin(*leaves(args, function, torch.float64))
    eps = torch.finfo(args[0].dtype).eps
    return margin >= (_UNDECIDED if eps < 1e-6 else 8 * eps)


def answer(op: str, args: tuple) -> list[Tensor]:
    """Outputs and gradients of ours, under the backend in force."""
    function = FUNCTIONS[op]
    return training(function.face, leaves(args, function), _decided(function, args))()


def expected(op: str, args: tuple, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """The same of the plain form, in float64 or another dtype."""
    function = FUNCTIONS[op]
    wide = leaves(args, function, dtype)
    return [value.detach() for value in training(function.plain, wide, _decided(function, args))()]
