"""One autograd node for modules that follow one another.

A module's way through autograd and back costs tens of microseconds, several times what a small layer's
kernels take. Here a run of modules is one node: forward calls their ops past autograd (`eager.taped`),
backward goes through the ops' own derivatives in reverse. From the second call with the same signature on,
both are replayed as bare kernel calls (ops/replay.py) where kernels are all that they made.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fastmodel.ops import dispatch, eager
from fastmodel.ops.links import LINKS
from fastmodel.ops.native import threads
from fastmodel.ops.replay import Capture, Place, Program, Result

MOST_INPUT_ELEMENTS = 2**20
"""Of what a chain takes: beyond it a step takes tens of milliseconds, the modules' overhead no longer counts,
and a node that keeps all its activations until its backward ends would be the dearer one."""

MOST_PLANS = 16
"""Signatures that a chain remembers; more are run each time anew."""


@dataclass
class _Link:
    """One call of an op in the chain, without the values that passed through it."""

    call: eager.Call
    inputs: list[tuple[int, int]]
    """(place among the op's arguments, place among the node's inputs) of each parameter that it uses."""
    saved: slice
    """What its derivative needs, among all that the chain saved."""
    others: tuple[None, ...]
    """The gradients of its outputs but the first, which nobody reads."""


@dataclass
class Plan:
    """What is known of a chain for one signature."""

    links: list[_Link] = field(default_factory=list)
    forward: Program | None = None
    saved: list[Place | None] = field(default_factory=list)
    """Where the forward program leaves what the links saved."""
    seeds: list[tuple[int, int, int]] = field(default_factory=list)
    """(link, place among its arguments, place among the program's seeds) of each seed that was drawn."""
    keeps_output: bool = False
    """Does a link's derivative need the chain's output?"""
    strides: list[tuple[int, ...]] = field(default_factory=list)
    """Of the inputs, x and parameters."""
    backward: dict[Hashable, Program | None] = field(default_factory=dict)
    """By wanted gradients and layout of the incoming one; None where it cannot be replayed."""


class Plans(dict[Hashable, Plan]):
    """What a chain has learnt, by signature: of this process's kernels, so a copy or a pickle is empty."""

    def __reduce__(self) -> tuple:
        return Plans, ()


def run(
    modules: Sequence[nn.Module],
    x: Tensor,
    parameters: Sequence[Tensor],
    plans: Plans,
    options: Hashable,
) -> Tensor:
    """What the modules make of x, one after the other, as one node of the graph.

    Args:
        modules: each calls one taped op on what it is given, or is one of LINKS; none has hooks.
        x: (N, ...); it and the parameters are plain (`eager.is_plain`) and on the CPU.
        parameters: of all modules, in their order.
        plans: what former calls have learnt, kept by the caller as long as the modules.
        options: of the modules, whatever their calls depend on beside tensors.
    """
    layouts = tuple([(p.shape, p.stride(), p.dtype) for p in parameters])
    own = (options, x.shape, x.stride(), x.dtype, layouts, _sharing((x, *parameters)))
    key = (*own, threads(), dispatch.requested())
    return _apply(_Pass(modules, plans, key), x, *parameters)


def _sharing(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """Which of these are one tensor or one memory, which a plan takes for one; None where none are."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    if len(set(addresses)) == len(addresses):
        return None
    names = list(map(id, tensors))
    return (*map(addresses.index, addresses), *map(names.index, names))


@dataclass
class _Pass:
    """One forward of a chain, and the backward passes through it."""

    modules: Sequence[nn.Module]
    plans: Plans
    key: Hashable
    plan: Plan = field(default_factory=Plan)
    links: list[_Link] = field(default_factory=list)
    seeds: list[Tensor] | None = None
    """Of a forward that was replayed, else None."""

    def forward(
        self, x: Tensor, parameters: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor | None]]:
        """The output, and what backward needs: of a replayed pass the program's block and the output."""
        known = self.plans.get(self.key)
        if known is None:
            return self._first_forward(x, parameters)
        self.plan = known
        if known.forward is not None:
            result = known.forward.run((x, *parameters))
            if result is not None:
                self.links, self.seeds = known.links, result.seeds
                out = result.outputs[0]
                return out, [result.block, out if known.keeps_output else None]
        return self._call_links(x, parameters)

    def _first_forward(self, x: Tensor, parameters: Sequence[Tensor]):
        """Call the links, watched, and write the plan."""
        capture = Capture((x, *parameters))
        with capture:
            out, saved = self._call_links(x, parameters)
        self.plan.links = self.links
        found = capture.program([out])
        if found is not None:
            program, place_of = found
            self.plan.saved = [None if t is None else place_of(t) for t in saved]
            self.plan.keeps_output = any(p and p.slot > program.inputs for p in self.plan.saved)
            self.plan.strides = [t.stride() for t in (x, *parameters)]
            self.plan.seeds = [
                (number, position, place)
                for number, link in enumerate(self.links)
                for position, value in enumerate(link.call.args)
                for place, seed in enumerate(capture.seeds)
                if isinstance(value, Tensor) and value.data_ptr() == seed.data_ptr()
            ]
            self.plan.forward = program
            again = program.run((x, *parameters), capture.seeds)
            places = [program.outputs[0], *self.plan.saved]
            if again is None or not _agrees(places, (x, *parameters), again, [out, *saved]):
                self.plan.forward = None
        if len(self.plans) < MOST_PLANS:
            self.plans[self.key] = self.plan
        return out, saved

    def _call_links(self, x: Tensor, parameters: Sequence[Tensor]):
        places = {id(parameter): place for place, parameter in enumerate(parameters, 1)}
        saved: list[Tensor | None] = []
        for module in self.modules:
            call = _call_of(module, x)
            if call is None:
                continue
            outputs = call.output if isinstance(call.output, tuple) else (call.output,)
            x = outputs[0]
            inputs = [
                (position, places[id(value)])
                for position, value in enumerate(call.args[1:3], 1)
                if id(value) in places
            ]
            kept = call.context.saved_tensors
            place = slice(len(saved), len(saved) + len(kept))
            self.links.append(_Link(call, inputs, place, (None,) * (len(outputs) - 1)))
            saved += kept
            # The node keeps them, and lets them go when the graph is.
            call.context.saved_tensors, call.output = (), None
            call.args = (None, *call.args[1:])
            for position, _ in inputs:
                call.args = (*call.args[:position], None, *call.args[position + 1 :])
        return x, saved

    def backward(
        self,
        grad: Tensor,
        inputs: Sequence[Tensor],
        saved: Sequence[Tensor | None],
        wanted: tuple[bool, ...],
    ) -> list[Tensor | None]:
        """The gradients of the inputs, x and parameters; None for each that is not wanted."""
        if self.seeds is None:
            return self._chain_rule(grad, saved, wanted)
        # Hooks on saved tensors may have laid them out anew.
        is_as_captured = eager.is_plain((grad,)) and not eager.is_batched(grad)
        is_as_captured &= [t.stride() for t in inputs] == self.plan.strides
        own = (grad, *inputs, *saved)
        key = (wanted, grad.shape, grad.stride(), grad.dtype, dispatch.requested())
        program = self.plan.backward.get(key) if is_as_captured else None
        if program is not None:
            result = program.run(own)
            if result is not None:
                outputs = iter(result.outputs)
                return [next(outputs) if want else None for want in wanted]
        memory = (*inputs, *saved)
        links_saved = [None if p is None else p.tensor(memory) for p in self.plan.saved]
        if not is_as_captured or key in self.plan.backward:
            return self._chain_rule(grad, links_saved, wanted)
        capture = Capture(own)
        with capture, eager.taped():
            grads = self._chain_rule(grad, links_saved, wanted)
        self.plan.backward[key] = self._backward_program(capture, own, grads)
        return grads

    def _backward_program(
        self, capture: Capture, own: Sequence[Tensor | None], grads: list[Tensor | None]
    ) -> Program | None:
        given = [grad for grad in grads if grad is not None]
        found = capture.program(given)
        if found is None:
            return None
        again = found[0].run(own)
        if again is None or not all(map(_same_bits, again.outputs, given)):
            return None
        return found[0]

    def _chain_rule(
        self, grad: Tensor, saved: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        found: list[Tensor | None] = [None] * len(wanted)
        # Does anything before a link want a gradient?
        before = [wanted[0]]
        for link in self.links:
            before.append(before[-1] or any(wanted[place] for _, place in link.inputs))
        for link, is_wanted in zip(reversed(self.links), before[-2::-1], strict=True):
            needs = [False] * len(link.call.args)
            needs[0] = is_wanted
            for position, place in link.inputs:
                needs[position] = wanted[place]
            if not any(needs):
                break
            context = link.call.context.restored(saved[link.saved], tuple(needs))
            grads = link.call.derivative(context, grad, *link.others)
            for position, place in link.inputs:
                value, other = grads[position], found[place]
                found[place] = value if other is None or value is None else other + value
            grad = grads[0]
        else:
            found[0] = grad if wanted[0] else None
        return found

    def differentiable_gradients(
        self, grad: Tensor, inputs: Sequence[Tensor], wanted: Sequence[bool]
    ) -> list[Tensor | None]:
        """As `backward`, to be differentiated again: through the ops that autograd sees."""
        places = [place for place, is_wanted in enumerate(wanted) if is_wanted]
        with torch.enable_grad():
            x = inputs[0]
            for number, link in enumerate(self.links):
                args = [x, *link.call.args[1:]]
                for position, place in link.inputs:
                    args[position] = inputs[place]
                for owner, position, place in self.plan.seeds:
                    if owner == number and self.seeds is not None:
                        args[position] = self.seeds[place]
                output = link.call.target(*args)
                x = output[0] if isinstance(output, tuple) else output
            grads = torch.autograd.grad(
                x, [inputs[place] for place in places], grad, create_graph=True, allow_unused=True
            )
        found: list[Tensor | None] = [None] * len(inputs)
        for place, value in zip(places, grads, strict=True):
            found[place] = value
        return found


def _call_of(module: nn.Module, x: Tensor) -> eager.Call | None:
    """The one op that the module calls on x; None for a module that hands x on."""
    if type(module) in LINKS:
        link = LINKS[type(module)]
        return None if link is None else link(module, x)
    with eager.taped() as calls:
        module.forward(x)
    (call,) = calls
    if call.args[0] is not x:
        raise AssertionError(f"{type(module).__name__} does more than call one op on its input")
    return call


def _agrees(
    places: list[Place | None],
    inputs: Sequence[Tensor],
    again: Result,
    values: list[Tensor | None],
) -> bool:
    """Has a replay left the very same bits?"""
    memory = (*inputs, again.block, *again.outputs)
    return all(
        place is None or value is None or _same_bits(place.tensor(memory), value)
        for place, value in zip(places, values, strict=True)
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Also where both are NaN."""
    a, b = a.contiguous().view(-1), b.contiguous().view(-1)
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))


class Chain(torch.autograd.Function):
    """The node, as graphs show it: <ChainBackward>."""

    @staticmethod
    def forward(ctx, chain: _Pass, x: Tensor, *parameters: Tensor):
        ctx.chain, ctx.count = chain, 1 + len(parameters)
        out, saved = chain.forward(x, parameters)
        ctx.save_for_backward(x, *parameters, *saved)
        return out

    @staticmethod
    def backward(ctx, grad):
        wanted, tensors = ctx.needs_input_grad[1:], ctx.saved_tensors
        inputs, saved = tensors[: ctx.count], tensors[ctx.count :]
        if torch.is_grad_enabled():
            return None, *ctx.chain.differentiable_gradients(grad, inputs, wanted)
        return None, *ctx.chain.backward(grad, inputs, saved, wanted)


# Past the Python half of `Function.apply`, which only serves transforms: plain calls run under none.
_apply = super(torch.autograd.Function, Chain).apply
