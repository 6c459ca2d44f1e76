"""The gated linear units as PyTorch ops; each op's own folder has its mathematics."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from fastmodel.ops import dispatch, eager, gated, recompute, register


def define(name: str, reference_backward: Callable) -> Callable[..., Tensor]:
    """Register `name` and its backward.

    No autocast rule: PyTorch's own SiLU, GELU and product take what they are given.

    Args:
        name: of the op, in the kernel table too.
        reference_backward: (grad, gate, up, wanted) to the gradients of gate and up.

    Returns:
        (gate, up) to out.
    """

    def forward_fake(gate, up):
        return gate.new_empty(gate.shape)

    def backward_fake(grad, gate, up, wanted):
        return gated.gradients_like(gate, wanted)

    forward = register.op(f"{name}(Tensor gate, Tensor up) -> Tensor", fake=forward_fake)
    backward = register.op(
        f"{name}_backward(Tensor grad, Tensor gate, Tensor up, bool[2] wanted) -> (Tensor, Tensor)",
        fake=backward_fake,
        pass_="backward",
    )
    call_backward = eager.backward(backward)

    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    def derivative(ctx, grad):
        wanted = list(ctx.needs_input_grad)
        found = call_backward(grad, *ctx.saved_tensors, wanted)
        return tuple(value if want else None for value, want in zip(found, wanted, strict=True))

    register.autograd(forward, setup_context, derivative)
    register.autograd_through_reference(backward, reference_backward)
    call_forward = eager.forward(forward, setup_context, derivative)

    def call(gate, up):
        out = call_forward(gate, up)
        if recompute.is_on():
            recompute.offer(out, functools.partial(dispatch.run, name, "forward"), gate, up)
        return out

    return call
